# shim: removed when the redesign is merged
from qalign_core.show.tables import cell_table, trace_table
