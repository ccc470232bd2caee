# shim: removed when the redesign is merged
from qalign_core.cost import GIB, show, training_memory
