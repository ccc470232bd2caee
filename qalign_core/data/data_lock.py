# shim: removed when the redesign is merged
from qalign_core.sources import Lock, LockedDataSet, LockedFile, read_lock
