# shim: removed when the redesign is merged
from qalign_core.comparisons import (
    DECLARED_PAIRS,
    MEASURES,
    compare,
    compare_languages,
    intervals,
    matrices,
    mean_over_seeds,
)
