# shim: removed when the redesign is merged
from qalign_core.evaluate import AS_GENERATED, CHANGED, ELSEWHERE, trace
