# shim: removed when the redesign is merged
from qalign_core.results import PUBLISHED, SECONDARY, SIZES, SOURCES, published, published_cells
