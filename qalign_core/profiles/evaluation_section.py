# shim: removed when the redesign is merged
from qalign_core.params import BenchmarkSettings as Test
from qalign_core.params import EvaluationSection
