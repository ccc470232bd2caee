# shim: removed when the redesign is merged
from qalign_core.evaluate import broken_questions, cleaned_accuracy
