# shim: removed when the redesign is merged
from qalign_core.params import LoraSection
