# shim: removed when the redesign is merged
# (refuse_unrecognisable moves to languages.py with the profile's redesign; until then it is here, as it was)
import re
import unicodedata
from functools import cache

from qalign_core.languages import Language
from qalign_core.scorer import UNDETERMINED, response_language

_LATIN_WORD = re.compile("[a-z\u00df-\u00f6\u00f8-\u024f\u1e00-\u1eff]+")
_LETTER_NAME = re.compile(r"(.+?) (?:(?:CAPITAL |SMALL )?LETTER|SYLLABLE|SYLLABICS|VOWEL|CHARACTER) ")
_NO_SCRIPTS = frozenset({"MODIFIER", "HALFWIDTH HANGUL", "HALFWIDTH KATAKANA", "FULLWIDTH LATIN", "SUPERSCRIPT LATIN"})


@cache
def scripts() -> frozenset[str]:
    """The scripts that Unicode names letters by, in capitals, as `script` of a new language may say."""
    letters = (unicodedata.name(chr(point), "") for point in range(0x20000) if chr(point).isalpha())
    found = frozenset(match[1] for match in map(_LETTER_NAME.match, letters) if match) - _NO_SCRIPTS
    parts = {name for name in found for script in found if name.startswith(f"{script} ")}  # LATIN EPIGRAPHIC
    return (found - parts) | {"HAN"}


def refuse_unrecognisable(entry: Language) -> None:
    """Refuse a language that a profile describes if no response could ever be found to be written in it.

    Raises:
        ValueError: for a script that Unicode names no letters by; for Latin letters without words, or with words of
            anything but such letters.
    """
    if entry.script.upper() not in scripts():
        raise ValueError(
            f"{entry.code}.script: Unicode names no letters by {entry.script!r}; write a script as it does, such as "
            "Hangul, Telugu, Arabic, Greek, Han, Katakana or Latin"
        )
    if entry.script.upper() != "LATIN":
        return
    wrong = sorted(word for word in entry.words if not _LATIN_WORD.fullmatch(word))
    if wrong:
        raise ValueError(
            f"{entry.code}.words: {wrong[0]!r} is not of Latin letters alone; write words with spaces between them, "
            "without punctuation, digits or apostrophes"
        )
    if not entry.words:
        raise ValueError(
            f"{entry.code}.words: a language in Latin letters is told by its words; give a dozen common ones, such as "
            "words: là và của một có không"
        )
