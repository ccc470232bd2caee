# shim: removed when the redesign is merged
from qalign_core.show.pages import body, opening, page, title, write_report
