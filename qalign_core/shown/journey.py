# shim: removed when the redesign is merged
from qalign_core.show.browse import COMPARED, base_job, follow
