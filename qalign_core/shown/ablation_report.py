# shim: removed when the redesign is merged
from qalign_core.show.report import ABLATIONS as NAMES
