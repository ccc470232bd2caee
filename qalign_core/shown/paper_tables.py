# shim: removed when the redesign is merged
from qalign_core.show.paper_tables import BENCHMARKS, HEADINGS, data_table, gap_table
from qalign_core.show.tables import bounded as with_interval
