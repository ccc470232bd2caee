# shim: removed when the redesign is merged
from qalign_core.comparisons import MARGIN, NOT_SHOWN, OPEN, QUESTIONS, SEEDS, SHOWN, STATEMENT
from qalign_core.comparisons import primary_outcomes as outcomes
from qalign_core.comparisons import primary_sentences as sentences
