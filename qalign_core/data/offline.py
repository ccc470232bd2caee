"""What a run lacks while nothing may be fetched (`HF_HUB_OFFLINE`): said once, before anything runs, with the commands
that get it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from qalign_core.checks.source_checks import is_local, models, sources
from qalign_core.data.data_lock import LockedDataSet, LockedHubDataSet, read_lock
from qalign_core.data.downloads import DownloadError, is_offline
from qalign_core.data.prepare import cache_dir, data_sets
from qalign_core.params import Profile


def refuse(profile: Profile, *, data: bool = True, model: bool = True) -> None:
    """Stop before anything runs if something would have to be fetched and may not be.

    Args:
        profile: the checked profile.
        data: whether data will be prepared.
        model: whether something will be trained or answered.

    Raises:
        DownloadError: naming everything that is missing, each with the command that gets it.
    """
    if not is_offline():
        return
    absent = [*(missing_data(profile) if data else ()), *(missing_models(profile) if model else ())]
    if absent:
        listed = "\n".join(f"  {line}" for line in absent)
        raise DownloadError(
            f"HF_HUB_OFFLINE is set, so nothing is fetched, but profile {profile.run.profile} lacks:\n{listed}\nRun "
            "these commands where there is a network, with HF_HUB_OFFLINE unset; caches can be copied or shared "
            "(QALIGN_CACHE_DIR, HF_HUB_CACHE)"
        )


def missing_models(profile: Profile) -> Iterator[str]:
    """The models of the hub that are not in its cache."""
    for name, revision in models(profile):
        if name.count("/") == 1 and not is_local(name, revision):
            at = f" --revision {revision}" if revision else ""
            yield f"the model {name}: hf download {name}{at} --exclude '*.bin' '*.pth' '*.pt'"


def missing_data(profile: Profile) -> Iterator[str]:
    """The data sets with files that are in no cache."""
    lock, own = read_lock(), {code for code, entry in profile.data.new_languages.items() if entry.folder}
    for name, codes in data_sets(profile).items():
        source = sources(profile)[name]
        known: LockedDataSet | None = None  # of a folder, or of what is made here
        if source in ("hub", "repository"):
            known = lock.hub.get(name) if source == "hub" else lock.repository.data_sets.get(name)
        if known is None:
            continue
        root = cache_dir() / ("hub" if source == "hub" else f"repository-{lock.repository.commit[:12]}")
        needed = known.needed([code for code in codes if code not in own])
        absent = [p for p, file in needed.items() if not ((root / p).is_file() or _cached(known, file.path))]
        if absent:
            files = f"{len(absent)} of its {len(needed)} files, first {absent[0]}"
            yield f"the data set {name} ({files}): make reproduce PROFILE={profile.run.profile} ONLY=01"


def _cached(known: LockedDataSet, path: str) -> bool:
    """Whether a file of a data set is in the hub's own cache."""
    if not isinstance(known, LockedHubDataSet):
        return False
    place = os.environ.get("HF_HUB_CACHE")
    found = try_to_load_from_cache(known.repo_id, path, cache_dir=place, revision=known.revision, repo_type="dataset")
    return isinstance(found, str) and Path(found).is_file()
