# shim: removed when the redesign is merged
from qalign_core.audit import base_comparison, base_text_table, overlap_table
from qalign_core.prepare import recipe_differences
