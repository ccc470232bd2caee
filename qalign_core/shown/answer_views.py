# shim: removed when the redesign is merged
from qalign_core.show.browse import disagreements, question_view as question_block, wrong_answers as errors_view
