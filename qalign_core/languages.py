"""The ten languages of the paper, and those a profile describes: code, names, script, and their order in the tables."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Language:
    """One language; a profile describes further ones."""

    code: str  # ISO 639-1, the key used everywhere in this package ("sw")
    name: str  # plain English; in file names of mSVAMP and the row prompts of GSM8KInstruct
    reference_name: str  # ISO 639-3, in the stage-1 prompt. Source: QAlign data/gsmtrans/gsmtrans.py:27
    native_name: str
    script: str  # what Unicode calls its letters
    flores: str  # code of its FLORES files
    decimal_comma: bool = False  # whether 3,5 is three and a half; the scorer knows that of the paper's ten
    words: frozenset[str] = frozenset()  # common ones, to tell a language in Latin letters; the scorer has the paper's


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
PAPER_NON_ENGLISH: tuple[str, ...] = PAPER_CODES[:-1]
# Order in which the authors concatenate the nine X -> English files. Source: NJUNLP/QAlign data/gsmtrans/gsmtrans.py.
STAGE1_ORDER: tuple[str, ...] = ("sw", "zh", "bn", "de", "es", "fr", "ja", "ru", "th")


class Codes(Sequence[str]):
    """The codes of all languages known by now, `without` one, in the order of the tables: a view, as more may come."""

    def __init__(self, without: str = "") -> None:
        self.without = without

    def __iter__(self) -> Iterator[str]:
        return (code for code in LANGUAGES if code != self.without)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, index: Any) -> Any:
        return tuple(self)[index]


CODES, NON_ENGLISH = Codes(), Codes(without="en")


def language(code: str) -> Language:
    """Look a language up by its code; ValueError, naming those that are known, for another."""
    if code not in LANGUAGES:
        known = f"known codes: {', '.join(CODES)}; others are described in data.new_languages"
        raise ValueError(f"unknown language code {code!r}; {known}")
    return LANGUAGES[code]


def in_table_order(codes: list[str]) -> list[str]:
    """Codes in the order of the tables; ValueError for one that is not known or named twice."""
    for code in codes:
        language(code)
    if len(set(codes)) != len(codes):
        raise ValueError("a language is named twice")
    return [code for code in CODES if code in codes]


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest known word, or nothing."""
    return f" (did you mean {close[0]!r}?)" if (close := difflib.get_close_matches(word, [*known], 1, 0.5)) else ""


def one_line(name: str, forbidden: str = "") -> str:
    """A name, if it is one line of text without `forbidden` characters; ValueError else."""
    # Names become parts of prompts, paths, tables and figures. Some scripts need the joiners U+200C and U+200D.
    unseen, joiners = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"), "\u200c\u200d"
    wrong = {c for c in name if c in forbidden or (unicodedata.category(c) in unseen and c not in joiners)}
    if wrong:
        shown = ", ".join(c if c.isprintable() else f"U+{ord(c):04X}" for c in sorted(wrong))
        raise ValueError(f"must be one line of plain text, without {shown}")
    if not name.strip() or name != name.strip():
        raise ValueError("must not be blank, or begin or end with a space")
    return name


def add(entry: Language) -> None:
    """Make a language known to this process, in front of English; one that was added before is replaced.

    Profiles describe languages (`data.new_languages`); results carry the description along. ValueError for a bad code.
    """
    code = entry.code
    if code in PAPER_CODES:
        raise ValueError(f"{code!r} is one of the paper's ten languages ({', '.join(PAPER_CODES)}): leave it out")
    # "und" stands for a response of no known language, and a table that is read back takes "nan" for an empty cell.
    if len(code) > 20 or not re.fullmatch(r"(?!(und|nan)$)[a-z]{2,3}(-[a-z0-9]+)*", code):
        form = "two or three small letters, such as 'ko', perhaps with more behind a hyphen ('zh-tw')"
        raise ValueError(f"{code!r} is no code of a language: {form}, at most 20 characters; not 'und' or 'nan'")
    if LANGUAGES.get(code) != entry:
        english = LANGUAGES.pop("en")
        LANGUAGES.update({code: entry, "en": english})


def add_new(described: Mapping[str, Mapping[str, Any]]) -> None:
    """Check and add the languages of a profile (code → the fields of `data.new_languages`).

    Raises:
        ValueError: for one that prompts, files or responses could not tell from others.
    """
    entries, taken = [], dict[str, Language]()
    for code, own in described.items():
        names = own["name"], own["reference_name"] or own["name"], own["native_name"] or own["name"]
        words = frozenset(unicodedata.normalize("NFC", own["words"]).lower().split())
        entries.append(Language(code, *names, own["script"], own["flores"] or code, own["decimal_comma"], words))
    for entry in [*(LANGUAGES[code] for code in PAPER_CODES), *entries]:
        for name in (entry.name, entry.reference_name, entry.flores):
            name = unicodedata.normalize("NFC", name).casefold()  # as file systems and readers compare names
            other = taken.setdefault(name, entry)
            if other.code != entry.code:
                why = "prompts and files tell languages by name, reference_name and flores"
                remedy = "so each needs its own, such as 'Traditional Chinese'"
                raise ValueError(f"{entry.code}: {name!r} is {other.name} ({other.code}) already; {why}, {remedy}")
    for act in (refuse_unrecognisable, add):  # all are checked before one is added
        for entry in entries:
            if act is add or entry.code not in PAPER_CODES:  # which `add` refuses
                act(entry)


def refuse_unrecognisable(entry: Language) -> None:
    """ValueError for a described language if no response could ever be found to be written in it."""
    script = entry.script.upper()
    # The name of a letter begins with that of its script: HANGUL SYLLABLE GA, OLD ITALIC LETTER A.
    letter = re.compile(rf"{re.escape(script)} ((CAPITAL |SMALL )?LETTER|SYLLABLE|SYLLABICS|VOWEL|CHARACTER) ")
    if script != "HAN" and not any(letter.match(unicodedata.name(chr(point), "")) for point in range(0x20000)):
        remedy = "write a script as it does, such as Hangul, Telugu, Arabic, Greek, Han, Katakana or Latin"
        raise ValueError(f"{entry.code}.script: Unicode names no letters by {entry.script!r}; {remedy}")
    if script != "LATIN":
        return
    if wrong := sorted(word for word in entry.words if not re.fullmatch("[a-zß-öø-ɏḀ-ỿ]+", word)):
        remedy = "write words with spaces between them, without punctuation, digits or apostrophes"
        raise ValueError(f"{entry.code}.words: {wrong[0]!r} is not of Latin letters alone; {remedy}")
    if not entry.words and entry.code not in identified():
        why = "py3langid does not know this code, so a language in Latin letters is told by its words"
        raise ValueError(f"{entry.code}.words: {why}; give a dozen common ones, such as words: là và của một có không")


@cache
def identified() -> frozenset[str]:
    """The codes that py3langid tells by itself."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return frozenset(LanguageIdentifier.from_pickled_model(MODEL_FILE).nb_classes)


def described(codes: Iterable[str]) -> dict[str, dict[str, Any]]:
    """These languages, but the paper's, as JSON can hold them: code → entry."""
    own = [LANGUAGES[code] for code in sorted(set(codes) - set(PAPER_CODES))]
    return {entry.code: asdict(entry) | {"words": sorted(entry.words)} for entry in own}


def restore(entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Make languages known again that `described` wrote down."""
    for entry in entries.values():
        add(Language(**{**entry, "words": frozenset(entry["words"])}))
