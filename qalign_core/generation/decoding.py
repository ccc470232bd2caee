# shim: removed when the redesign is merged
from qalign_core.decoding import GreedyDecoder, Sequence  # noqa: F401
