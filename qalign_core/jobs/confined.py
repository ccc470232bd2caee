"""Where the libraries behind a run keep what they write by themselves: in our cache, not all over a home folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from qalign_core.data.prepare import cache_dir
from qalign_core.runs import Run

# Environment variables of matplotlib (its list of fonts), Triton, torch's compiler, DeepSpeed's compiled operators and
# NVIDIA's compiler, with the folder each gets unless it is set.
FOLDERS = {
    "MPLCONFIGDIR": "matplotlib",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "CUDA_CACHE_PATH": "cuda",
}


@contextmanager
def confined(run: Run) -> Iterator[None]:
    """Inside, this process and those it starts write into the run folder and the cache only.

    What is worth keeping goes into the cache, or where that cannot be written into the run folder; IPython's profile is
    a folder that is deleted at the end.
    """
    cache = cache_dir() / "tools"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:  # a cache that others fill
        cache = run.folder / ".tools"
    cache = cache if os.access(cache, os.W_OK) else run.folder / ".tools"
    with TemporaryDirectory(prefix="qalign-") as scratch:
        wanted = {name: str(cache / folder) for name, folder in FOLDERS.items()}
        wanted |= {"IPYTHONDIR": str(Path(scratch, "ipython")), "JUPYTER_RUNTIME_DIR": str(Path(scratch, "jupyter"))}
        added = {name: value for name, value in wanted.items() if name not in os.environ}
        os.environ.update(added)
        try:
            yield
        finally:
            for name in added:
                os.environ.pop(name, None)
