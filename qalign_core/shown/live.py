"""What a notebook shows only to someone who sits before it: menus, and pictures that change while a job runs.

What papermill and nbconvert make is read later, without a kernel: there everything is static.
"""

from __future__ import annotations


def someone_is_there() -> bool:
    """Whether the running cell was started from a browser or an editor.

    Their requests let a cell ask its reader for input; those of papermill, nbconvert and nbclient do not.
    """
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)  # None: a plain Python or a terminal
    if kernel is None:
        return False
    request = kernel.get_parent("shell") or {}
    return bool(request.get("content", {}).get("allow_stdin"))
