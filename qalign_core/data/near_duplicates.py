# shim: removed when the redesign is merged
from qalign_core.audit import near_duplicate_groups
