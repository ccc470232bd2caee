# shim: removed when the redesign is merged
from qalign_core.show.paper_tables import consistency_table, split_table
