# shim: removed when the redesign is merged
from qalign_core.evaluate import PARALLEL as BENCHMARK
from qalign_core.evaluate import question_sets, representation_jobs, save_representations
from qalign_core.evaluate import representation_job as job
from qalign_core.evaluate import represented_models as models
