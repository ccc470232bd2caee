# shim: removed when the redesign is merged
from qalign_core.train import BEAT_SECONDS, BEATS, begin, leave_together, prepare_deepspeed
