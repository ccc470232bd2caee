# shim: removed when the redesign is merged
from qalign_core.prepare import link_data_set
from qalign_core.sources import FOLDERS, layout
