# shim: removed when the redesign is merged
from qalign_core.results import read_table
