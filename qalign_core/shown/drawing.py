# shim: removed when the redesign is merged
from qalign_core.show.figures import BENCHMARK_NAMES, COLOURS, WIDTH, look, style
from qalign_core.show.report import save_figure
