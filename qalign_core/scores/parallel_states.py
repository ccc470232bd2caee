# shim: removed when the redesign is merged
from qalign_core.represent import parallel_measures, plane  # noqa: F401
