# shim: removed when the redesign is merged
from qalign_core.comparisons import OURS, WITHOUT
from qalign_core.results import (
    CONSISTENCY,
    Results,
    read_results,
    write_consistency,
    write_csv,
    write_results,
)
