# shim: removed when the redesign is merged
from qalign_core.audit import checked, counted, near_duplicate_groups, overlap, token_lengths, translation_defects
from qalign_core.audit import EXAMPLE_CHARACTERS, ROW_CHARACTERS, ROWS_KEPT
