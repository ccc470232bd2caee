# shim: removed when the redesign is merged
from qalign_core.models import (
    add_pad_token,
    full_state_dict,
    load_model,
    load_tokenizer,
    merged,
    restore_master_weights,
    save_model,
    whole_shape,
)
