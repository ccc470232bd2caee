# shim: removed when the redesign is merged
from qalign_core.responses import KINDS, OTHER, RATES, errors, identified, rates, with_error_kinds
