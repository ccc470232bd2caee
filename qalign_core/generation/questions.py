# shim: removed when the redesign is merged
from qalign_core.generate import Rank, load_tokenizer, model_source  # noqa: F401
