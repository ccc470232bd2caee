"""The model every lineage starts from: a hub id, a folder, or the miniature's; and what identifies it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from qalign_core import runs
from qalign_core.data.downloads import DownloadError, unreadable_model
from qalign_core.params import Profile
from qalign_core.runs import Run

LARGE_FILE = 64 * 2**20  # bytes; a larger file of a model is identified by its size and samples of its bytes
SAMPLE_EVERY, SAMPLE = 8 * 2**20, 64 * 2**10  # bytes; smaller than any weight matrix of such a model


def pretrains(profile: Profile) -> bool:
    """Whether the run trains its own base model first."""
    return profile.model.base == "miniature" and profile.model.miniature.weights == "trained"


def base_model(profile: Profile, run: Run, seed: int) -> dict[str, Any]:
    """The base model as a job names it; the miniature's is put into the run folder first."""
    if profile.model.base != "miniature":
        return {"path": profile.model.base, "revision": profile.model.revision}
    weights = profile.model.miniature.weights
    if weights == "trained":
        return {"path": run.relative(run.model(seed, [])), "revision": None}
    return miniature_folder(profile, run.model(seed, []), seed, shipped=weights == "shipped", run=run)


def miniature_folder(profile: Profile, folder: Path, seed: int, shipped: bool, run: Run) -> dict[str, Any]:
    """The miniature's model in `folder`, put there first if it is not: the one that comes with the package, or an
    untrained one."""
    if not (folder / "config.json").is_file():
        run.may_write(folder)
        from qalign_core import miniature

        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        if shipped:
            shutil.copytree(miniature.SHIPPED_BASE, part)
        else:
            miniature.create_base(part, seed=seed, config=profile.model.miniature.config() or None)
        part.rename(folder)
    return {"path": run.relative(folder), "revision": None}


def starting_model(profile: Profile, run: Run, seed: int) -> dict[str, Any]:
    """The base model, or the untrained one that it is trained from: its configuration and tokenizer are the same."""
    if pretrains(profile):
        return miniature_folder(profile, run.stage(seed, []) / "untrained", seed, shipped=False, run=run)
    return base_model(profile, run, seed)


def base_tokenizer(profile: Profile, run: Run) -> Any:
    """The tokenizer of the base model (of the first seed).

    Raises:
        DownloadError: when it cannot be read: a folder without one, a gated or unknown model, no network.
    """
    from qalign_core.training.model_folder import load_tokenizer

    model = starting_model(profile, run, profile.run.seeds[0])
    try:
        return load_tokenizer(runs.resolve(model["path"], run.folder), model["revision"])
    except OSError as error:
        raise DownloadError(f"model.base: {unreadable_model(model['path'], model['revision'], error)}") from None


def model_identity(model: dict[str, Any], root: Path) -> Any:
    """What identifies a model that was not trained here: a hub id and revision, or the content of a folder."""
    folder = Path(runs.resolve(model["path"], root))
    if not folder.is_dir():
        return model
    files = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".model", ".jinja")):
        large = path.stat().st_size > LARGE_FILE
        files[path.name] = _sampled(path) if large else runs.sha256_file(path)
    return files


def _sampled(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for offset in [*range(0, size - SAMPLE, SAMPLE_EVERY), size - SAMPLE]:
            stream.seek(offset)
            digest.update(stream.read(SAMPLE))
    return digest.hexdigest()
