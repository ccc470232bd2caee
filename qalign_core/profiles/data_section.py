"""The section `data` of a profile: which data, from where, and the corpora that are derived from the known ones."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from qalign_core import languages as known_languages
from qalign_core.languages import LANGUAGES, PAPER_CODES, Language
from qalign_core.profiles.schema import (
    AbsoluteFolder,
    Corpus,
    DataSet,
    KnownCorpus,
    Languages,
    Positive,
    Section,
    Size,
    Source,
    Style,
)
from qalign_core.profiles.schema_errors import nearest
from qalign_core.scores.identify import refuse_unrecognisable

KNOWN_CORPORA: tuple[str, ...] = get_args(KnownCorpus)
# Names that a stage's or a prediction's folder uses itself, or that mean something else in a profile.
RESERVED = (
    "base",
    "base-text",
    "model",
    "untrained",
    "checkpoints",
    "benchmarks",
    "translation",
    "to-english",
    "followed",
    "corrected",
    "tensorboard",
)
RESERVED_BEGINNINGS = ("encoded-", "benchmarks-")  # a tokenised corpus; answers in another precision
SOLVED: tuple[DataSet, ...] = ("gsm8k", "gsm8kinstruct", "metamathqa")  # data sets that hold solutions


class MiniatureData(Section):
    """Sizes of the generated world (questions of a benchmark, pairs or questions a language, problems), the style of
    its solutions, and which of its questions the benchmarks ask: choices are made on the development split.
    """

    style: Style = "restating"
    split: Literal["test", "development"] = "test"
    sizes: dict[Size, Positive] = {}


class CorpusChoice(Section):
    """A part of a corpus, or under a name of its own a corpus derived from others or brought along.

    `limit` keeps at most so many examples a language (the first ones), `share` a random part of each language's,
    `languages` and `without` choose languages. `pairs: shuffled` gives every question another one's translation,
    `pairs: source-only` makes the question itself the target, with as many target tokens as the original has: two
    controls. `style` writes the miniature's solutions in another style.

    Source: ours; the paper's own corpora are those of `schema.KnownCorpus`.
    """

    of: Annotated[list[Corpus], Field(min_length=1)] | None = None
    path: str | None = None
    limit: Positive | None = None
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    languages: Languages | None = None
    without: Languages | None = None
    pairs: Literal["shuffled", "source-only"] | None = None
    style: Style | None = None

    @field_validator("of", mode="before")
    @classmethod
    def _one_or_several(cls, of: object) -> object:
        return [of] if isinstance(of, str) else of

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        # The notebooks run in a folder of their own: what is relative to here must be made absolute here.
        return None if path is None else os.path.abspath(os.path.expanduser(path))

    @model_validator(mode="after")
    def _choices_agree(self) -> CorpusChoice:
        if self.of is not None and self.path is not None:
            raise ValueError("give either of (other corpora) or path (a file of your own), not both")
        if self.of is not None and len(set(self.of)) != len(self.of):
            raise ValueError(f"of: {self.of} names a corpus twice")
        if self.of is not None and len(self.of) > 1 and self.pairs is not None:
            raise ValueError("pairs is for one corpus: derive it first, then join")
        if self.languages is not None and self.without is not None:
            raise ValueError("give either languages or without, not both")
        if self.path is not None and (self.pairs or self.style):
            raise ValueError("pairs and style are for corpora derived from known ones, not for a file of your own")
        return self


def _plain(name: str) -> str:
    # Names become parts of prompts, paths, tables and figures. Some scripts need the joiners U+200C and U+200D.
    unseen = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")
    wrong = sorted({c for c in name if c in "/\\{}" or (unicodedata.category(c) in unseen and c not in "\u200c\u200d")})
    if wrong:
        shown = ", ".join(c if c.isprintable() else f"U+{ord(c):04X}" for c in wrong)
        raise ValueError(f"must be one line of plain text, without {shown}")
    if not name.strip() or name != name.strip():
        raise ValueError("must not be blank, or begin or end with a space; leave the key out or write a name")
    return name


PlainName = Annotated[str, Field(max_length=60), AfterValidator(_plain)]


class NewLanguage(Section):
    """A language that the paper does not have.

    `name` is its English name, which stage 1's prompt and mSVAMP's file names use; `script` is what Unicode calls its
    letters (Hangul, Telugu, Arabic, Latin); `flores` the code of its FLORES files; `decimal_comma` whether 3,5 is three
    and a half; `words`, needed with Latin letters, are common words that tell it from other languages. `folder` holds
    its files, laid out as `sources` describes (`mgsm/mgsm_ko.tsv`); without it, they are in `data.folder`.
    """

    name: PlainName
    reference_name: PlainName | None = None
    native_name: PlainName | None = None
    script: str = "Latin"
    flores: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=40)] | None = None
    decimal_comma: bool = False
    words: str = ""
    folder: AbsoluteFolder | None = None

    def described(self, code: str) -> Language:
        """As every module knows a language."""
        return Language(
            code=code,
            name=self.name,
            reference_name=self.reference_name or self.name,
            native_name=self.native_name or self.name,
            script=self.script,
            flores=self.flores or code,
            decimal_comma=self.decimal_comma,
            words=frozenset(unicodedata.normalize("NFC", self.words).lower().split()),
        )


class DataSection(Section):
    """Which data, from where, and the authors' quirks as named switches."""

    new_languages: dict[str, NewLanguage] = {}  # comes first: what follows names their codes
    languages: Languages = list(PAPER_CODES)
    sources: dict[DataSet, Source]
    folder: str | None = None
    corpora: dict[Corpus, CorpusChoice] = {}
    miniature: MiniatureData = MiniatureData()
    language_names: Literal["paper", "plain"] = "paper"
    gsm8kinstruct_language: Literal["paper", "fixed"] = "paper"
    sft_data: Literal["paper", "gsm8k"] = "paper"

    @field_validator("new_languages")
    @classmethod
    def _become_known(cls, described: dict[str, NewLanguage]) -> dict[str, NewLanguage]:
        taken = {name: code for code in PAPER_CODES for name in _names(LANGUAGES[code])}
        entries = {code: entry.described(code) for code, entry in described.items()}
        for code, entry in entries.items():
            known_languages.refuse_code(code)
            refuse_unrecognisable(entry)
            for name in _names(entry):
                if taken.setdefault(name, code) != code:
                    other = entries.get(taken[name]) or LANGUAGES[taken[name]]
                    raise ValueError(
                        f"{code}: {name!r} is {other.name} ({other.code}) already; prompts and files tell languages by "
                        "name, reference_name and flores, so each needs its own, such as 'Traditional Chinese'"
                    )
        for entry in entries.values():
            known_languages.add(entry)
        return described

    @field_validator("languages")
    @classmethod
    def _english_is_among_them(cls, languages: list[str]) -> list[str]:
        if "en" not in languages:
            raise ValueError("'en' must be among the languages: every corpus and comparison is relative to English")
        return languages

    @field_validator("corpora")
    @classmethod
    def _names_are_explained(cls, corpora: dict[str, CorpusChoice]) -> dict[str, CorpusChoice]:
        for name, choice in corpora.items():
            new = choice.of is not None or choice.path is not None
            if name in RESERVED or name.startswith(RESERVED_BEGINNINGS):
                raise ValueError(f"{name}: this name is taken: a run has a folder of it; choose another for the corpus")
            if name in KNOWN_CORPORA:
                differs = set(choice.model_dump(exclude_none=True)) - {"limit", "languages"}
                if differs:
                    raise ValueError(
                        f"{name}: of a known corpus only limit and languages can be set, not "
                        f"{', '.join(sorted(differs))}; "
                        f"give the derived corpus a name of its own: <name>: {{of: {name}, …}}"
                    )
            elif not new:
                raise ValueError(
                    f"{name}: unknown corpus{nearest(name, KNOWN_CORPORA)}; a new one needs `of` (corpora it is made "
                    f"of) or `path` (a file of your own); known: {', '.join(KNOWN_CORPORA)}"
                )
            for part in choice.of or []:
                if part not in corpora and part not in KNOWN_CORPORA:
                    raise ValueError(f"{name}.of: {unknown_corpus(part, corpora)}")
        for name in corpora:
            _refuse_circle(name, corpora, [])
        return corpora

    @model_validator(mode="after")
    def _languages_are_described_here(self) -> DataSection:
        for code in self.languages:
            if code not in PAPER_CODES and code not in self.new_languages:
                raise ValueError(f"languages: {code!r} is none of the paper's and not described in data.new_languages")
        for name, choice in self.corpora.items():
            for code in [*(choice.languages or []), *(choice.without or [])]:
                if code not in PAPER_CODES and code not in self.new_languages:
                    raise ValueError(
                        f"corpora.{name}: {code!r} is none of the paper's languages and not described in "
                        "data.new_languages"
                    )
        return self

    @model_validator(mode="after")
    def _styles_are_the_miniatures(self) -> DataSection:
        styled = [name for name, choice in self.corpora.items() if choice.style]
        real = [f"{n}: {self.sources[n]}" for n in SOLVED if self.sources.get(n, "miniature") != "miniature"]
        if styled and real:
            raise ValueError(f"corpora.{styled[0]}.style: only the miniature can be written in styles, not {real[0]}")
        return self

    @model_validator(mode="after")
    def _development_questions_are_the_miniatures(self) -> DataSection:
        benchmarks: tuple[DataSet, ...] = ("mgsm", "msvamp")
        asked = [name for name in benchmarks if self.sources.get(name, "miniature") != "miniature"]
        if self.miniature.split == "development" and asked:
            raise ValueError(
                f"miniature.split: development needs {asked[0]} from the miniature, not from {self.sources[asked[0]]}"
            )
        return self

    def source(self, name: str) -> str | None:
        """Where a data set comes from; None for one without a source, such as a benchmark of one's own."""
        return {str(known): source for known, source in self.sources.items()}.get(name)

    def knows(self, name: str) -> bool:
        """Whether there is a corpus of this name."""
        return name in KNOWN_CORPORA or name in self.corpora

    def choice(self, name: str) -> CorpusChoice:
        """What the profile says of a corpus; nothing chosen for one it does not mention."""
        return self.corpora.get(name, CorpusChoice())

    def ancestry(self, name: str) -> Iterator[str]:
        """The corpus itself and whatever it is derived from, nearest first."""
        yield name
        for part in self.choice(name).of or []:
            yield from self.ancestry(part)

    def roots(self, name: str) -> list[str]:
        """The known corpora and brought files a corpus is made of in the end, each once."""
        return [n for n in dict.fromkeys(self.ancestry(name)) if self.choice(n).of is None]


def _names(entry: Language) -> set[str]:
    """What prompts and files call a language, as file systems and readers compare it."""
    return {unicodedata.normalize("NFC", n).casefold() for n in (entry.name, entry.reference_name, entry.flores)}


def unknown_corpus(name: str, corpora: dict[str, CorpusChoice]) -> str:
    """What to say of a corpus that neither the paper nor `data.corpora` of the profile knows."""
    known = [*KNOWN_CORPORA, *(n for n in corpora if n not in KNOWN_CORPORA)]
    return (
        f"unknown corpus {name!r}{nearest(name, known)}; known: {', '.join(known)}; "
        "a new one is described in data.corpora"
    )


def _refuse_circle(name: str, corpora: dict[str, CorpusChoice], above: list[str]) -> None:
    if name in above:
        raise ValueError(f"{name} is derived from itself: {' of '.join([*above, name])}")
    if name in corpora:
        for part in corpora[name].of or []:
            _refuse_circle(part, corpora, [*above, name])
