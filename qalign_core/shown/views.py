# shim: removed when the redesign is merged
from qalign_core.show.browse import PAPER_RECIPE, audit_table, lineage_table, outcomes_table, picture, recipe_table, remarks_note as remarks, samples_view, show, shown, stages_table, text_table, token_view, translation_table
