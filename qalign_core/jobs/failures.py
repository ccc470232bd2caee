# shim: removed when the redesign is merged
from qalign_core.launch import ADVICE, failure
