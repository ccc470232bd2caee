# shim: removed when the redesign is merged
from qalign_core.comparisons import agreement, agreement_map, consistency, solved_languages
