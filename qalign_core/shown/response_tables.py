# shim: removed when the redesign is merged
from qalign_core.show.paper_tables import cleaned_table, errors_table, responses_table
