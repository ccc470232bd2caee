# shim: removed when the redesign is merged
from qalign_core.show.report import caption, few_groups, method_of, remarks, seeds_of
