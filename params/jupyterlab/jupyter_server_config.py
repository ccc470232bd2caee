"""Read by `make lab`: keeps `git status` empty when a notebook was run and saved by hand.

The filter of `make setup` hides outputs from `git diff`, but git lists a file of another size as modified until the
index knows that size.
"""

import subprocess
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any


def refresh_index(os_path: str, model: dict[str, Any], **_: Any) -> None:
    """Tell the index the size of a tracked notebook whose cells are unchanged; one with other cells stays modified."""
    git = ["git", "-C", str(Path(os_path).parent)]
    with suppress(FileNotFoundError):  # no git here
        unchanged = subprocess.run([*git, "diff", "--quiet", "--", os_path], capture_output=True).returncode == 0
        if model["type"] == "notebook" and unchanged:
            # fails, and changes nothing, for a notebook that is not tracked
            subprocess.run([*git, "update-index", "--", os_path], capture_output=True)


warnings.filterwarnings("ignore", message="Overriding existing post_save_hook")  # by the same: it is set twice
c.FileContentsManager.post_save_hook = refresh_index  # type: ignore[name-defined]  # noqa: F821
