"""The ten languages: their order, names and scripts."""

from __future__ import annotations

import unicodedata

import pytest

from qalign_core.languages import CODES, LANGUAGES, NON_ENGLISH, STAGE1_ORDER, language


def test_codes_stand_in_the_order_of_the_papers_tables():
    assert tuple(CODES) == ("bn", "th", "sw", "ja", "zh", "de", "fr", "ru", "es", "en")
    assert CODES[:-1] == tuple(NON_ENGLISH)


def test_stage_1_joins_the_files_in_the_authors_order():
    assert STAGE1_ORDER == ("sw", "zh", "bn", "de", "es", "fr", "ja", "ru", "th")
    assert sorted(STAGE1_ORDER) == sorted(NON_ENGLISH)


def test_every_name_and_code_belongs_to_one_language():
    for attribute in ("code", "name", "reference_name", "native_name", "flores"):
        assert len({getattr(entry, attribute) for entry in LANGUAGES.values()}) == 10


@pytest.mark.parametrize("code", CODES)
def test_a_language_is_written_in_its_script(code: str):
    unicode_names = {"Han": "CJK", "Japanese": "CJK"}
    script = LANGUAGES[code].script
    wanted = unicode_names.get(script, script).upper()
    letters = [c for c in LANGUAGES[code].native_name if unicodedata.category(c).startswith("L")]
    assert letters
    assert all(unicodedata.name(c).startswith(wanted) for c in letters)


def test_an_unknown_code_is_refused_and_the_known_ones_are_named():
    with pytest.raises(ValueError, match="unknown language code 'xx'; known codes: bn, th, sw") as error:
        language("xx")
    assert all(code in str(error.value) for code in CODES)
