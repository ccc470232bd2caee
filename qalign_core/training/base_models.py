# shim: removed when the redesign is merged
from qalign_core.models import (
    base_model,
    base_tokenizer,
    miniature_folder,
    model_identity,
    pretrains,
    starting_model,
)
