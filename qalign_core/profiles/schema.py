# shim: removed when the redesign is merged
from qalign_core.params import BENCHMARK_NAME, BENCHMARKS, LONGEST_NAME, Benchmark, Corpus, DataSet, Positive, Section
