"""The ten languages of the paper, and those a profile describes: code, names, script, and their order in the tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload


@dataclass(frozen=True)
class Language:
    """One language.

    Attributes:
        code: ISO 639-1 code, the key used everywhere in this package (`"sw"`).
        name: plain English name (`"Swahili"`); file names of mSVAMP and the row prompts of GSM8KInstruct use it.
        reference_name: ISO 639-3 reference name, which the authors' stage-1 prompt uses
            (`"Swahili (macrolanguage)"`). Source: QAlign data/gsmtrans/gsmtrans.py:27.
        native_name: how its speakers write it.
        script: the ISO 15924 name of the script its text is written in.
        flores: code of its FLORES files.
        decimal_comma: whether `3,5` is three and a half (the paper's ten are treated in `last_number`).
        words: common words that tell it from the other languages in Latin letters (the paper's are in `identify`).
    """

    code: str
    name: str
    reference_name: str
    native_name: str
    script: str
    flores: str
    decimal_comma: bool = False
    words: frozenset[str] = frozenset()


# "und" stands for a response of no known language, and a table that is read back takes "nan" for an empty cell.
CODE = re.compile(r"(?!(und|nan)$)[a-z]{2,3}(-[a-z0-9]+)*")

# Order of the columns in the paper's tables.
LANGUAGES: dict[str, Language] = {
    language.code: language
    for language in (
        Language("bn", "Bengali", "Bengali", "বাংলা", "Bengali", "ben_Beng"),
        Language("th", "Thai", "Thai", "ไทย", "Thai", "tha_Thai"),
        Language("sw", "Swahili", "Swahili (macrolanguage)", "Kiswahili", "Latin", "swh_Latn"),
        Language("ja", "Japanese", "Japanese", "日本語", "Japanese", "jpn_Jpan"),
        Language("zh", "Chinese", "Chinese", "中文", "Han", "cmn_Hans"),
        Language("de", "German", "German", "Deutsch", "Latin", "deu_Latn"),
        Language("fr", "French", "French", "français", "Latin", "fra_Latn"),
        Language("ru", "Russian", "Russian", "русский", "Cyrillic", "rus_Cyrl"),
        Language("es", "Spanish", "Spanish", "español", "Latin", "spa_Latn"),
        Language("en", "English", "English", "English", "Latin", "eng_Latn"),
    )
}

PAPER_CODES: tuple[str, ...] = tuple(LANGUAGES)  # these ten, whatever a profile adds
PAPER_NON_ENGLISH: tuple[str, ...] = tuple(code for code in PAPER_CODES if code != "en")


class Codes(Sequence[str]):
    """The codes of all languages that are known by now, in the order of the tables: English comes last.

    Args:
        without: a code to leave out.
    """

    def __init__(self, without: str = "") -> None:
        self.without = without

    def __iter__(self) -> Iterator[str]:
        return (code for code in LANGUAGES if code != self.without)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        return tuple(self) == (tuple(other) if isinstance(other, Codes) else other)

    __hash__ = None  # type: ignore[assignment]  # more languages may come

    def __repr__(self) -> str:
        return repr(tuple(self))


CODES = Codes()
NON_ENGLISH = Codes(without="en")

# Order in which the authors concatenate the nine X -> English files. Source: NJUNLP/QAlign data/gsmtrans/gsmtrans.py.
STAGE1_ORDER: tuple[str, ...] = ("sw", "zh", "bn", "de", "es", "fr", "ja", "ru", "th")


def language(code: str) -> Language:
    """Look a language up by its code.

    Raises:
        ValueError: for a code that is neither one of the ten nor described by the profile, naming those that are.
    """
    try:
        return LANGUAGES[code]
    except KeyError:
        raise ValueError(f"unknown language code {code!r}; known codes: {', '.join(CODES)}") from None


def refuse_code(code: str) -> None:
    """Refuse a code that no further language can have.

    Raises:
        ValueError: for one of the paper's ten, whose names and prompts are the authors', or what is no code.
    """
    if code in PAPER_CODES:
        raise ValueError(f"{code!r} is one of the paper's ten languages ({', '.join(PAPER_CODES)}): leave it out")
    if len(code) > 20 or not CODE.fullmatch(code):
        raise ValueError(
            f"{code!r} is no code of a language: two or three small letters, such as 'ko', perhaps with more behind a "
            "hyphen ('zh-tw'), at most 20 characters; not 'und' or 'nan'"
        )


def add(entry: Language) -> None:
    """Make a language known to this process, in front of English; one that was added before is replaced.

    Profiles describe languages (`data.new_languages`); results carry the description along.

    Raises:
        ValueError: as `refuse_code`.
    """
    refuse_code(entry.code)
    if LANGUAGES.get(entry.code) == entry:
        return
    english = LANGUAGES.pop("en")
    LANGUAGES[entry.code] = entry
    LANGUAGES["en"] = english


def described(codes: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What those of these languages are that are not the paper's, as JSON can hold it: code → its entry."""
    own = [LANGUAGES[code] for code in sorted(set(codes) - set(PAPER_CODES))]
    return {entry.code: asdict(entry) | {"words": sorted(entry.words)} for entry in own}


def restore(entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Make languages known again that `described` wrote down."""
    for entry in entries.values():
        add(Language(**{**entry, "words": frozenset(entry["words"])}))
