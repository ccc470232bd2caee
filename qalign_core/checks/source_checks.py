"""What `doctor` finds out about a profile's data sets and models: here already, or can they be had?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from qalign_core.checks.machine_checks import OK, PROBLEM, Finding
from qalign_core.data.data_folder import layout
from qalign_core.data.data_lock import LockedDataSet, read_lock
from qalign_core.data.downloads import is_offline
from qalign_core.data.prepare import DATA_DIR, cache_dir, data_sets
from qalign_core.params import Profile
from qalign_core.sources import REPOSITORY_URL

ASK_SECONDS = 3.0  # to wait for a server


# ------------------------------------------------------------------------------------------------- data and models


def sources(profile: Profile) -> dict[str, str]:
    """Where each data set comes from."""
    return {str(name): str(source) for name, source in profile.data.sources.items()}


def made_here(profile: Profile) -> Iterator[Finding]:
    """The data sets that need no fetching."""
    names = [name for name in data_sets(profile) if sources(profile)[name] == "miniature"]
    if names:
        yield Finding("data: miniature", OK, f"{', '.join(names)}: made here")


def data_set(profile: Profile, name: str, codes: list[str]) -> Iterator[Finding]:
    """Whether a data set is here or can be had: from its folder, or one file of it asked for at its source."""
    source, title = sources(profile)[name], f"data: {name}"
    if source == "folder":
        yield _in_folder(profile, name, codes)
        return
    lock = read_lock()
    known: LockedDataSet | None = (lock.hub if source == "hub" else lock.repository.data_sets).get(name)
    if known is None:
        yield Finding(title, PROBLEM, f"not at source {source}", f"correct data.sources.{name}")
        return
    root = cache_dir() / ("hub" if source == "hub" else f"repository-{lock.repository.commit[:12]}")
    needed = known.needed(codes)
    absent = [place for place in needed if not (root / place).is_file()]
    if not absent:
        yield Finding(title, OK, f"all {len(needed)} files are in {root}")
        return
    if source == "hub":
        hub = lock.hub[name]
        refused = ask_hub(f"datasets/{hub.repo_id}", hub.repo_id, hub.revision, needed[absent[0]].path)
    else:
        base = os.environ.get(REPOSITORY_URL, lock.repository.url).rstrip("/")
        refused = ask(f"{base}/{lock.repository.commit}/{needed[absent[0]].path}")
    found = f"{len(absent)} of {len(needed)} files to fetch ({source})"
    yield Finding(title, *((PROBLEM, f"{found}: {refused[0]}", refused[1]) if refused else (OK, f"{found}: reachable")))


def _in_folder(profile: Profile, name: str, codes: list[str]) -> Finding:
    value = profile.data.folder or os.environ.get(DATA_DIR)
    if not value:
        return Finding(f"data: {name}", PROBLEM, "no folder is named", f"set data.folder, or {DATA_DIR}")
    folder = Path(value).expanduser()
    absent = [places for places in layout(name, codes) if not any((folder / place).is_file() for place in places)]
    if absent:
        found = f"{folder} lacks {' or '.join(absent[0])}" + (f" and {len(absent) - 1} more" if absent[1:] else "")
        return Finding(f"data: {name}", PROBLEM, found, "put them there, or leave their languages out")
    return Finding(f"data: {name}", OK, f"in {folder}")


def models(profile: Profile) -> list[tuple[str, str | None]]:
    """The models that must be fetched or are folders: the base if something is trained from it, and checkpoints."""
    found = [(e.checkpoint, e.revision) for e in profile.systems.values() if e.checkpoint is not None]
    if profile.lineages() and profile.model.base != "miniature":
        found.insert(0, (profile.model.base, profile.model.revision))
    return list(dict.fromkeys(found))


def is_local(name: str, revision: str | None) -> bool:
    """Whether a model is a folder here, or in the hub's cache with its weights."""
    from huggingface_hub import try_to_load_from_cache

    if (Path(name) / "config.json").is_file():
        return True
    if name.count("/") != 1:
        return False
    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    return isinstance(cached, str) and any(Path(cached).parent.glob("*.safetensors"))


def hub_model(name: str, revision: str | None) -> Iterator[Finding]:
    """Whether a model is here, or its repository lets us read it."""
    title = f"model: {name}"
    if is_local(name, revision):
        yield Finding(title, OK, "is here")
    elif name.count("/") != 1:
        yield Finding(
            title, PROBLEM, "no such folder with a config.json", "correct model.base, or the system's checkpoint"
        )
    elif refused := ask_hub(name, name, revision, "config.json"):
        yield Finding(title, PROBLEM, *refused)
    else:
        yield Finding(title, OK, "to fetch: readable")


# ------------------------------------------------------------------------------------------------- asking


def ask_hub(place: str, repo_id: str, revision: str | None, file: str) -> tuple[str, str] | None:
    """What stands in the way of fetching a file of the hub and what to do about it; None if nothing does."""
    import huggingface_hub

    if is_offline():
        return "not here, and HF_HUB_OFFLINE is set", "unset it and run once with a network"
    token = huggingface_hub.get_token()
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return ask(f"{endpoint}/{place}/resolve/{revision or 'main'}/{file}", headers, f"{endpoint}/{place}", repo_id)


def ask(
    url: str, headers: dict[str, str] | None = None, page: str | None = None, name: str | None = None
) -> tuple[str, str] | None:
    """Ask a server for a file's headers.

    Args:
        url: of the file.
        headers: with the hub's token, if there is one.
        page: of the file's repository on the hub, where its terms can be accepted.
        name: of that repository.

    Returns:
        What stands in the way and what to do; None if the file can be had.
    """
    import requests

    try:
        answer = requests.head(url, headers=headers or {}, timeout=ASK_SECONDS, allow_redirects=False)
    except requests.RequestException as error:
        reason = f"{url.split('/')[2]} cannot be reached ({type(error).__name__})"
        return reason, "check the network and its proxy, or use folders of your own"
    if answer.status_code < 400:
        return None
    code = answer.headers.get("X-Error-Code", "")
    if code == "GatedRepo":
        who = "this login has not been granted access" if headers else "it is gated and nobody is logged in"
        return who, f"accept the terms at {page}, then: hf auth login"
    if answer.status_code in (401, 403):
        return f"refused ({answer.status_code} {code})".replace(" )", ")"), f"is {name or url} right? hf auth login"
    return f"{url}: {answer.status_code} {code}".strip(), "compare with params/data.lock.yaml, or try again later"
