"""Studies on request: the section `studies` of a profile, and the systems over derived corpora each study stands for.

After the profile's own check, every study becomes systems of `table: study`; everything else treats them as it treats
any other system.

Source: the questions are those of the follow-up paper (arXiv 2405.01345); the exact constructions are ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from qalign_core.languages import LANGUAGES
from qalign_core.profiles.schema import Languages, Section

if TYPE_CHECKING:
    from qalign_core.params import Profile

OURS = "QAlign"  # the system the studies vary
REVERSED = "questions-en-x"
Share = Annotated[float, Field(gt=0, lt=1)]


class DataSize(Section):
    """How much stage-1 data is needed: QAlign with shares of the pairs of each language; 0 and 1 are there already."""

    shares: Annotated[list[Share], Field(min_length=1)] = [0.1, 0.25, 0.5]


class AnswerLanguage(Section):
    """What it costs to answer in the question's language: `share` of the En→X questions joined to stage 1 or 2."""

    share: Annotated[float, Field(gt=0, le=1)] = 1.0


class LeftOut(Section):
    """Does alignment reach a language without pairs: stage 1 without one language at a time."""

    languages: Languages | None = None


class Studies(Section):
    """The studies that were asked for; `{}` behind a name asks for it as it is."""

    data_size: DataSize | None = None
    answer_language: AnswerLanguage | None = None
    left_out: LeftOut | None = None

    def any(self) -> bool:
        """Whether one was asked for."""
        return any(study is not None for study in (self.data_size, self.answer_language, self.left_out))


@dataclass(frozen=True)
class Variant:
    """One system of a study.

    Attributes:
        study: `data_size`, `answer_language` or `left_out`.
        at: its place in the study: a share as text, the stage that was changed, or the language left out.
        system: its name.
        lineage: what it is trained on.
        corpora: the derived corpora in it, as `data.corpora` describes them.
        stages: what `training.stages` says of them where they are not trained as what they are derived from.
    """

    study: str
    at: str
    system: str
    lineage: list[str]
    corpora: dict[str, dict[str, Any]]
    stages: dict[str, dict[str, Any]]


def variants(profile: Profile) -> list[Variant]:
    """The systems the profile's studies stand for, in order.

    Raises:
        ValueError: when there is no QAlign with two stages to vary, or a language has no pairs to leave out.
    """
    if not profile.studies.any():
        return []
    ours = profile.systems.get(OURS)
    if ours is None or len(ours.lineage or []) < 2:
        raise ValueError(
            f"studies: they vary the system {OURS}, which must have a lineage of question pairs and then solutions, "
            f"such as {OURS}: {{lineage: [questions-x-en, metamathqa]}}"
        )
    return [*_data_sizes(profile), *_answer_languages(profile), *_left_out(profile)]


def _data_sizes(profile: Profile) -> Iterator[Variant]:
    pairs, *rest = profile.systems[OURS].lineage or []
    if profile.studies.data_size:
        for share in profile.studies.data_size.shares:
            percent = f"{100 * share:g}"
            name = f"{pairs}-{percent.replace('.', '-')}-percent"
            derived = {name: {"of": [pairs], "share": share}}
            yield Variant("data_size", f"{share:g}", f"{OURS}, {percent}% of the pairs", [name, *rest], derived, {})


def _answer_languages(profile: Profile) -> Iterator[Variant]:
    lineage, study = profile.systems[OURS].lineage or [], profile.studies.answer_language
    if study is None:
        return
    part = REVERSED if study.share == 1 else f"{REVERSED}-part"
    smaller = {} if study.share == 1 else {part: {"of": [REVERSED], "share": study.share}}
    for place in (0, len(lineage) - 1):
        name = f"{lineage[place]}-and-en-x"
        changed = [*lineage[:place], name, *lineage[place + 1 :]]
        as_before = profile.training.model_dump()["stages"].get(lineage[place], {})
        at = f"stage {1 if place == 0 else 2}"
        yield Variant(
            "answer_language",
            at,
            f"{OURS} + En→X in {at}",
            changed,
            {**smaller, name: {"of": [lineage[place], part]}},
            {name: as_before},
        )


def _left_out(profile: Profile) -> Iterator[Variant]:
    pairs, *rest = profile.systems[OURS].lineage or []
    if profile.studies.left_out is None:
        return
    for code in profile.studies.left_out.languages or [c for c in profile.data.languages if c != "en"]:
        if code == "en" or code not in profile.data.languages:
            raise ValueError(f"studies.left_out.languages: {LANGUAGES[code].name} ({code}) has no pairs to leave out")
        name = f"{pairs}-without-{code}"
        derived = {name: {"of": [pairs], "without": [code]}}
        yield Variant("left_out", code, f"{OURS} without {code}", [name, *rest], derived, {})


def expanded(profile: Profile) -> dict[str, Any] | None:
    """The sections of a profile with its studies' systems and corpora, or None where they change nothing.

    Raises:
        ValueError: when the profile uses one of the names for something else.
    """
    found = variants(profile)
    sections = profile.model_dump(mode="json")
    for variant in found:
        system = {"lineage": variant.lineage, "table": "study"}
        _add(sections["systems"], variant.system, system, "systems", profile)
        for name, choice in variant.corpora.items():
            _add(sections["data"]["corpora"], name, choice, "data.corpora", profile)
        sections["training"]["stages"] = {**variant.stages, **sections["training"]["stages"]}
    return sections if set(sections["systems"]) != set(profile.systems) else None


def _add(entries: dict[str, Any], name: str, entry: dict[str, Any], where: str, profile: Profile) -> None:
    there = entries.setdefault(name, entry)
    if any(there.get(key) != value for key, value in entry.items()):
        raise ValueError(f"{where}.{name}: the study needs this name for {entry}; call yours something else")
