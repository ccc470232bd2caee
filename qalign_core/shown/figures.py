# shim: removed when the redesign is merged
from qalign_core.show.figures import agreement_map, consistency, headline, length_histogram, mixed_supervision, solved_languages, training_curves
