# shim: removed when the redesign is merged
from qalign_core.plan import hostfile, machines
