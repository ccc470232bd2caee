# shim: removed when the redesign is merged
from qalign_core.rows import (
    BadRow,
    check_text,
    loads,
    read_json_array,
    read_json_lines,
    read_lines,
    read_parquet,
)
