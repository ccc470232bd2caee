"""What a notebook shows only to someone who sits before it: menus, and pictures that change while a job runs.

What papermill and nbconvert make is read later, without a kernel: there everything is static.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


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


class Explorer(ABC):
    """Something to explore: by menus of ipywidgets where someone is there to use them, as a static view elsewhere.

    The menus carry the static view along, for a reader of the saved notebook who has no kernel.
    """

    def __init__(self) -> None:
        self._controls: Any = None

    @abstractmethod
    def static(self) -> str:
        """What is shown without a kernel, as HTML; all text from models and data escaped."""

    @abstractmethod
    def _make_controls(self) -> Any:
        """The widgets."""

    def controls(self) -> Any:
        """The widgets, made once."""
        if self._controls is None:
            self._controls = self._make_controls()
        return self._controls

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        static = {"text/html": self.static(), "text/plain": repr(self)}
        return {**self.controls()._repr_mimebundle_(), **static} if someone_is_there() else static
