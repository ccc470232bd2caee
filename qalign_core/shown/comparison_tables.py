# shim: removed when the redesign is merged
from qalign_core.show.paper_tables import comparison_table, languages_table, seeds_table
