# shim: removed when the redesign is merged
from qalign_core.show.browse import questions as QuestionBrowser
