# shim: removed when the redesign is merged
from qalign_core.show.browse import suspicious as SuspiciousRows
