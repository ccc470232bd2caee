# shim: removed when the redesign is merged
from qalign_core.sources import DownloadError, is_offline, unreadable_model
