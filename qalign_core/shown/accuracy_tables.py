# shim: removed when the redesign is merged
from qalign_core.show.paper_tables import accuracy_table, mixed_table
