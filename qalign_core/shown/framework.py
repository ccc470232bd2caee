# shim: removed when the redesign is merged
from qalign_core.show.figures import FRAMEWORK as CAPTION, framework
