"""Are the data sets and models of a profile here, or can they be had? One request to a server each, no download."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from qalign_core.params import Profile
from qalign_core.sources import DATA_DIR, REPOSITORY_URL, cache_dir, is_offline, layout, read_lock

ASK_SECONDS = 3.0  # to wait for a server


class Refusal(NamedTuple):
    """What stands in the way of something, and what to do about it."""

    why: str
    remedy: str


def sources(profile: Profile) -> dict[str, str]:
    """Where each data set comes from."""
    return {str(name): str(source) for name, source in profile.data.sources.items()}


def data_set(profile: Profile, name: str, codes: list[str]) -> str | Refusal:
    """Where a data set is, or that it can be had: one file of it is asked for at its source."""
    source, lock = sources(profile)[name], read_lock()
    if source == "folder":
        value = profile.data.folder or os.environ.get(DATA_DIR)
        if not value:
            return Refusal("no folder is named", f"set data.folder, or {DATA_DIR}")
        folder = Path(value).expanduser()
        lacks = [places for places in layout(name, codes) if not any((folder / place).is_file() for place in places)]
        if not lacks:
            return f"in {folder}"
        more = f" and {len(lacks) - 1} more" if lacks[1:] else ""
        remedy = "put them there, or leave their languages out"
        return Refusal(f"{folder} lacks {' or '.join(lacks[0])}{more}", remedy)
    known: Any = (lock.hub if source == "hub" else lock.repository.data_sets).get(name)
    if known is None:
        return Refusal(f"not at source {source}", f"correct data.sources.{name}")
    root = cache_dir() / ("hub" if source == "hub" else f"repository-{lock.repository.commit[:12]}")
    needed = known.needed(codes)
    absent = [place for place in needed if not (root / place).is_file()]
    if not absent:
        return f"all {len(needed)} files are in {root}"
    file, base = needed[absent[0]].path, os.environ.get(REPOSITORY_URL, lock.repository.url).rstrip("/")
    if source == "hub":
        refused = ask_hub(f"datasets/{known.repo_id}", known.revision, file)
    else:
        refused = ask(f"{base}/{lock.repository.commit}/{file}")
    found = f"{len(absent)} of {len(needed)} files to fetch ({source})"
    return Refusal(f"{found}: {refused.why}", refused.remedy) if refused else f"{found}: reachable"


def models(profile: Profile) -> list[tuple[str, str | None]]:
    """The models that must be fetched or are folders: the base if something is trained from it, and checkpoints."""
    found = [(e.checkpoint, e.revision) for e in profile.systems.values() if e.checkpoint is not None]
    if profile.lineages() and profile.model.base != "miniature":
        found.insert(0, (profile.model.base, profile.model.revision))
    return list(dict.fromkeys(found))


def is_local(name: str, revision: str | None) -> bool:
    """Whether a model is a folder here, or in the hub's cache with its weights."""
    from huggingface_hub import try_to_load_from_cache

    if (Path(name) / "config.json").is_file() or name.count("/") != 1:
        return (Path(name) / "config.json").is_file()
    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    return isinstance(cached, str) and any(Path(cached).parent.glob("*.safetensors"))


def model(name: str, revision: str | None) -> str | Refusal:
    """Whether a model is here, or its repository lets us read it."""
    if is_local(name, revision):
        return "is here"
    if name.count("/") != 1:
        return Refusal("no such folder with a config.json", "correct model.base, or the system's checkpoint")
    return ask_hub(name, revision, "config.json") or "to fetch: readable"


def ask_hub(place: str, revision: str | None, file: str) -> Refusal | None:
    """What stands in the way of fetching a file of the hub; None if nothing does."""
    import huggingface_hub

    if is_offline():
        return Refusal("not here, and HF_HUB_OFFLINE is set", "unset it and run once with a network")
    token = huggingface_hub.get_token()
    page = f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co').rstrip('/')}/{place}"
    return ask(
        f"{page}/resolve/{revision or 'main'}/{file}", {"Authorization": f"Bearer {token}"} if token else {}, page
    )


def ask(url: str, headers: dict[str, str] | None = None, page: str = "") -> Refusal | None:
    """What stands in the way of fetching a file; None if nothing does.

    Args:
        url: of the file, whose headers are asked for.
        headers: with the hub's token, if there is one.
        page: of the file's repository on the hub, where its terms can be accepted.
    """
    import requests

    try:
        answer = requests.head(url, headers=headers or {}, timeout=ASK_SECONDS, allow_redirects=False)
    except requests.RequestException as error:
        reason = f"{url.split('/')[2]} cannot be reached ({type(error).__name__})"
        return Refusal(reason, "check the network and its proxy, or use folders of your own")
    code = answer.headers.get("X-Error-Code", "")
    if answer.status_code < 400:
        return None
    if code == "GatedRepo":
        who = "this login has not been granted access" if headers else "it is gated and nobody is logged in"
        return Refusal(who, f"accept the terms at {page}, then: hf auth login")
    if answer.status_code in (401, 403):
        why = f"refused ({answer.status_code} {code})".replace(" )", ")")
        return Refusal(why, f"is {page or url} right? hf auth login")
    what = "compare with params/data.lock.yaml, or try again later"
    return Refusal(f"{url}: {answer.status_code} {code}".strip(), what)
