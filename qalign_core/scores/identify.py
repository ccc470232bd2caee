# shim: removed when the redesign is merged
from qalign_core.languages import refuse_unrecognisable
from qalign_core.scorer import UNDETERMINED, response_language
