# shim: removed when the redesign is merged
from qalign_core.scorer import UNDETERMINED, refuse_unrecognisable, response_language
