"""The layout of a data folder: which files a data set consists of, and folders made of links into other ones."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from qalign_core.benchmarks import benchmark_files
from qalign_core.data.data_sets import MATHOCTOPUS_FILE
from qalign_core.languages import language

# Each data set and the top folder of the layout that holds it.
FOLDERS = {
    "mgsm": "mgsm",
    "msvamp": "msvamp",
    "gsm8k": "gsm8k",
    "gsm8kinstruct": "gsm8kinstruct",
    "questions": "gsm8kinstruct_question",
    "metamathqa": "metamathqa",
    "flores": "flores",
}


def layout(data_set: str, languages: Sequence[str]) -> list[tuple[str, ...]]:
    """The files a data set consists of in these languages; each as the places where it may be."""
    foreign = [code for code in languages if code != "en"]
    if data_set in ("mgsm", "msvamp"):
        return [benchmark_files(data_set, code) for code in languages]
    if data_set == "gsm8kinstruct":
        return [(f"gsm8kinstruct/{code}/train.txt", MATHOCTOPUS_FILE) for code in languages]
    if data_set == "questions":
        return [(f"gsm8kinstruct_question/{x}-en/train.{side}",) for x in foreign for side in (x, "en")]
    if data_set == "flores":
        kinds = ("{0}.txt", "{1}.parquet", "{1}.jsonl")
        return [tuple("flores/dev/" + k.format(c, language(c).flores) for k in kinds) for c in languages]
    return [("gsm8k/train.jsonl",)] if data_set == "gsm8k" else [("metamathqa/MetaMathQA-395K.json",)]


def join(found: Path, added: Mapping[str, str], data_set: str, destination: Path) -> None:
    """A data set whose files come from `found`, and those of added languages from folders of their own: all links.

    Args:
        found: a data folder that holds the data set.
        added: code → folder of the files of this language.
        data_set: one of `FOLDERS`.
        destination: the data folder to make it in.

    Raises:
        FileNotFoundError: when an added language lacks a file, naming it.
        FileExistsError: for files where links should go, or when an added language's file would replace another one.
    """
    files = {p.relative_to(found): p for p in (found / FOLDERS[data_set]).rglob("*") if p.is_file()}
    for code, folder in added.items():
        for places in layout(data_set, [code]):
            here = [place for place in places if Path(folder, place).is_file()]
            if not here and not any(Path(place) in files for place in places):
                raise FileNotFoundError(
                    f"data.new_languages.{code}: {folder} holds no {' or '.join(places)}, which {data_set} needs: put "
                    f"it there, or leave {code!r} out of data.languages"
                )
            for name, brought in ((Path(place), Path(folder, place)) for place in here):
                if name in files and not filecmp.cmp(files[name], brought, shallow=False):
                    raise FileExistsError(
                        f"data.new_languages.{code}: {brought} would replace {files[name]}, which is another file: "
                        f"remove the one that is not meant; languages of one name have files of one name"
                    )
                files[name] = brought
    place = destination / FOLDERS[data_set]
    if place.is_symlink():
        place.unlink()
    elif place.exists() and not _holds_links(place):
        raise FileExistsError(f"{place} holds files of its own, not links; move it away and run again")
    shutil.rmtree(place, ignore_errors=True)
    for name, target in files.items():
        link = destination / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target.resolve())


def _holds_links(folder: Path) -> bool:
    """Whether a folder holds links to files and no file of its own."""
    found = [path for path in folder.rglob("*") if not path.is_dir()]
    return bool(found) and all(path.is_symlink() for path in found)


def link(target: Path, place: Path) -> None:
    """Make `place` a link to the folder `target`, or leave it if it is.

    Raises:
        FileExistsError: for a folder of files where the link should go.
    """
    if place.is_symlink():
        if place.resolve() == target.resolve():
            return
        place.unlink()
    elif _holds_links(place):  # of `join`
        shutil.rmtree(place)
    elif place.exists():
        raise FileExistsError(f"{place} is a folder of its own, not a link to {target}; move it away and run again")
    place.symlink_to(target, target_is_directory=True)
