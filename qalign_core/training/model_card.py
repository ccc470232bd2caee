# shim: removed when the redesign is merged
from qalign_core.models import card, data_origins, write_card, write_cards
