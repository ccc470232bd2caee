# shim: removed when the redesign is merged
from qalign_core.evaluate import answers_fingerprint as answers_print
from qalign_core.evaluate import log_evaluation as record
from qalign_core.evaluate import recipe_fingerprint as recipe_print
from qalign_core.evaluate import system_jobs
from qalign_core.results import LOG_COLUMNS as COLUMNS
from qalign_core.results import looks, read_log
