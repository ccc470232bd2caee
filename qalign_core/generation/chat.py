# shim: removed when the redesign is merged
from qalign_core.prompts import CHAT as TEMPLATE  # noqa: F401
from qalign_core.prompts import CHAT_DATE as DATE  # noqa: F401
from qalign_core.prompts import Turn, turn  # noqa: F401
from qalign_core.prompts import render as prompt  # noqa: F401
