# shim: removed when the redesign is merged
from qalign_core.consistency import agreement, agreement_map, consistency, solved_languages
