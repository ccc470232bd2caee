# shim: removed when the redesign is merged
from qalign_core.evaluate import ablation_pairs as pairs
from qalign_core.evaluate import ablation_rows as rows
from qalign_core.evaluate import ablation_systems as systems
from qalign_core.evaluate import save_ablations as save
from qalign_core.evaluate import write_ablations as write
