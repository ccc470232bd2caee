# shim: removed when the redesign is merged
from qalign_core.models import base_tokenizer, model_identity, pretrains, starting_model
