"""The ten languages of the paper: code, names, script, and their order in the tables."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    code: str
    name: str
    reference_name: str
    native_name: str
    script: str
    flores: str


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

CODES: tuple[str, ...] = tuple(LANGUAGES)
NON_ENGLISH: tuple[str, ...] = tuple(code for code in CODES if code != "en")

# Order in which the authors concatenate the nine X -> English files. Source: NJUNLP/QAlign data/gsmtrans/gsmtrans.py.
STAGE1_ORDER: tuple[str, ...] = ("sw", "zh", "bn", "de", "es", "fr", "ja", "ru", "th")


def language(code: str) -> Language:
    """Look a language up by its code.

    Raises:
        ValueError: for a code that is not one of the ten, naming them.
    """
    try:
        return LANGUAGES[code]
    except KeyError:
        raise ValueError(f"unknown language code {code!r}; known codes: {', '.join(CODES)}") from None
