# shim: removed when the redesign is merged
from qalign_core.show.tables import Table, from_frame, markdown_text, print_table, save_table, styled
