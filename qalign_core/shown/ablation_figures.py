# shim: removed when the redesign is merged
from qalign_core.show.figures import ablations, layers, planes
