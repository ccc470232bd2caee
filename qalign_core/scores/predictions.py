# shim: removed when the redesign is merged
from qalign_core.scorer import read_benchmark, read_predictions
