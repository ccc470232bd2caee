# shim: removed when the redesign is merged
from qalign_core.responses import broken_questions, cleaned_accuracy
