# shim: removed when the redesign is merged
from qalign_core.evaluate import answers_folder, generated, read_answers
from qalign_core.evaluate import external_files as contents
from qalign_core.evaluate import external_overview as overview
