# shim: removed when the redesign is merged
from qalign_core.available import is_local, models, sources
