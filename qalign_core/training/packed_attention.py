# shim: removed when the redesign is merged
from qalign_core.kernels import BY_DOCUMENT
