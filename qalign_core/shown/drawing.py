# shim: removed when the redesign is merged
from qalign_core.show.figures import BENCHMARK_NAMES, COLOURS, WIDTH, look, save_figure, style
