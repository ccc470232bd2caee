"""The miniature's language data: complete, parallel, in its script, and right in fourteen sentences written by hand."""

from __future__ import annotations

import random
import re
import unicodedata

import pytest

from qalign_core.languages import CODES
from qalign_core.miniature.language import (
    NATIVE_DIGITS,
    STYLES,
    Slots,
    distinct_generic,
    language_data,
    question,
    render_generic,
    solution,
    statements,
)
from qalign_core.miniature.world import HELD_OUT_ITEMS, ITEMS, PEOPLE, SCHEMAS, World

LETTERS = {
    "bn": r"ঀ-৿।",
    "th": r"฀-๿",
    "ja": r"぀-ヿ一-鿿々。、？：",
    "zh": r"一-鿿。，？：",
    "ru": r"А-Яа-яЁё—",
    "de": r"A-Za-zÄÖÜäöüß",
    "fr": r"A-Za-zÀÂÇÉÈÊËÎÏÔŒÙÛàâçéèêëîïôœùû",
    "es": r"A-Za-zÁÉÍÓÚÑÜáéíóúñü¿",
    "sw": r"A-Za-z",
    "en": r"A-Za-z",
}

# (key, wording, N, M, item, x, spelled): what to render.
CASES = {
    "one": ("has", 0, "Tom", "Anna", "apple", 1, False),
    "twenty-one": ("has", 0, "Anna", "Tom", "apple", 21, False),
    "five": ("has", 0, "Sofia", "Tom", "book", 5, True),
    "object": ("buys", 0, "Anna", "Tom", "book", 21, False),
    "two": ("gives", 0, "Tom", "Anna", "pencil", 2, True),
    "how many": ("q_now", 0, "Olga", "Tom", "orange", 0, False),
    "more": ("more", 0, "Anna", "Tom", "ball", 3, False),
    "fewer": ("fewer", 0, "Eva", "Max", "lemon", 1, False),
    "times": ("times", 0, "Tom", "Anna", "candle", 3, False),
    "share": ("share", 0, "Tom", "Anna", "cup", 3, False),
    "price": ("price", 0, "Tom", "Anna", "egg", 1, False),
    "both": ("q_both", 0, "Anna", "Maria", "rose", 0, False),
    "age": ("age", 0, "Maria", "Tom", "apple", 31, False),
    "older": ("older", 0, "Anna", "Peter", "apple", 2, False),
}
GOLDEN = {
    "en": {
        "one": "Tom has 1 apple.",
        "twenty-one": "Anna has 21 apples.",
        "five": "Sofia has five books.",
        "object": "Anna buys 21 books.",
        "two": "Tom gives a friend two pencils.",
        "how many": "How many oranges does Olga have now?",
        "more": "Tom has 3 more balls than Anna.",
        "fewer": "Max has 1 fewer lemon than Eva.",
        "times": "Anna has 3 times as many candles as Tom.",
        "share": "Tom shares all the cups equally among 3 friends.",
        "price": "One egg costs 1 dollar.",
        "both": "How many roses do they have together?",
        "age": "Maria is 31 years old.",
        "older": "Peter is 2 years older than Anna.",
    },
    "de": {
        "one": "Tom hat 1 Apfel.",
        "twenty-one": "Anna hat 21 Äpfel.",
        "five": "Sofia hat fünf Bücher.",
        "object": "Anna kauft 21 Bücher.",
        "two": "Tom gibt einem Freund zwei Bleistifte.",
        "how many": "Wie viele Orangen hat Olga jetzt?",
        "more": "Tom hat 3 Bälle mehr als Anna.",
        "fewer": "Max hat 1 Zitrone weniger als Eva.",
        "times": "Anna hat 3-mal so viele Kerzen wie Tom.",
        "share": "Tom verteilt alle Tassen gleichmäßig an 3 Freunde.",
        "price": "Ein Ei kostet 1 Dollar.",
        "both": "Wie viele Rosen haben beide zusammen?",
        "age": "Maria ist 31 Jahre alt.",
        "older": "Peter ist 2 Jahre älter als Anna.",
    },
    "fr": {
        "one": "Tom a 1 pomme.",
        "twenty-one": "Anna a 21 pommes.",
        "five": "Sofia a cinq livres.",
        "object": "Anna achète 21 livres.",
        "two": "Tom donne deux crayons à un ami.",
        "how many": "Combien d'oranges Olga a-t-elle maintenant ?",
        "more": "Tom a 3 balles de plus qu'Anna.",
        "fewer": "Max a 1 citron de moins qu'Eva.",
        "times": "Anna a 3 fois plus de bougies que Tom.",
        "share": "Tom partage toutes les tasses équitablement entre 3 amis.",
        "price": "Un œuf coûte 1 dollar.",
        "both": "Combien de roses ont-elles à elles deux ?",
        "age": "Maria a 31 ans.",
        "older": "Peter a 2 ans de plus qu'Anna.",
    },
    "es": {
        "one": "Tom tiene 1 manzana.",
        "twenty-one": "Anna tiene 21 manzanas.",
        "five": "Sofia tiene cinco libros.",
        "object": "Anna compra 21 libros.",
        "two": "Tom le da dos lápices a un amigo.",
        "how many": "¿Cuántas naranjas tiene Olga ahora?",
        "more": "Tom tiene 3 pelotas más que Anna.",
        "fewer": "Max tiene 1 limón menos que Eva.",
        "times": "Anna tiene 3 veces la cantidad de velas que tiene Tom.",
        "share": "Tom reparte todas las tazas por igual entre 3 amigos.",
        "price": "Un huevo cuesta 1 dólar.",
        "both": "¿Cuántas rosas tienen juntas?",
        "age": "Maria tiene 31 años.",
        "older": "Peter tiene 2 años más que Anna.",
    },
    "ru": {
        "one": "У Тома есть 1 яблоко.",
        "twenty-one": "У Анны есть 21 яблоко.",
        "five": "У Софии есть пять книг.",
        "object": "Анна покупает 21 книгу.",
        "two": "Том даёт другу два карандаша.",
        "how many": "Сколько апельсинов теперь у Ольги?",
        "more": "У Тома на 3 мяча больше, чем у Анны.",
        "fewer": "У Макса на 1 лимон меньше, чем у Евы.",
        "times": "У Анны в 3 раза больше свечей, чем у Тома.",
        "share": "Том делит все чашки поровну между 3 друзьями.",
        "price": "Одно яйцо стоит 1 доллар.",
        "both": "Сколько роз у них вместе?",
        "age": "Марии 31 год.",
        "older": "Питер старше Анны на 2 года.",
    },
    "sw": {
        "one": "Tom ana tufaha 1.",
        "twenty-one": "Anna ana matufaha 21.",
        "five": "Sofia ana vitabu vitano.",
        "object": "Anna ananunua vitabu 21.",
        "two": "Tom anampa rafiki penseli mbili.",
        "how many": "Olga ana machungwa mangapi sasa?",
        "more": "Tom ana mipira 3 zaidi kuliko Anna.",
        "fewer": "Max ana limau 1 pungufu kuliko Eva.",
        "times": "Anna ana mishumaa mara 3 ya mishumaa ya Tom.",
        "share": "Tom anagawa vikombe vyote sawasawa kwa marafiki 3.",
        "price": "Yai moja linagharimu dola 1.",
        "both": "Wote wawili wana mawaridi mangapi kwa jumla?",
        "age": "Maria ana umri wa miaka 31.",
        "older": "Peter ni mkubwa kuliko Anna kwa miaka 2.",
    },
    "zh": {
        "one": "汤姆有1个苹果。",
        "twenty-one": "安娜有21个苹果。",
        "five": "索菲亚有五本书。",
        "object": "安娜买了21本书。",
        "two": "汤姆给了一位朋友两支铅笔。",
        "how many": "奥尔加现在有多少个橙子？",
        "more": "汤姆比安娜多3个球。",
        "fewer": "马克斯比伊娃少1个柠檬。",
        "times": "安娜的蜡烛数量是汤姆的3倍。",
        "share": "汤姆把所有杯子平均分给3个朋友。",
        "price": "一个鸡蛋的价格是1美元。",
        "both": "她们一共有多少朵玫瑰？",
        "age": "玛丽亚31岁。",
        "older": "彼得比安娜大2岁。",
    },
    "ja": {
        "one": "トムはりんごを1個持っています。",
        "twenty-one": "アンナはりんごを21個持っています。",
        "five": "ソフィアは本を五冊持っています。",
        "object": "アンナは本を21冊買います。",
        "two": "トムは友達に鉛筆を二本あげます。",
        "how many": "オルガは今、オレンジを何個持っていますか？",
        "more": "トムはアンナよりボールを3個多く持っています。",
        "fewer": "マックスのレモンはエバより1個少ないです。",
        "times": "アンナはトムの3倍のろうそくを持っています。",
        "share": "トムはすべてのカップを3人の友達に同じ数ずつ分けます。",
        "price": "卵は一個1ドルです。",
        "both": "二人は合わせてバラを何本持っていますか？",
        "age": "マリアは31歳です。",
        "older": "ピーターはアンナより2歳年上です。",
    },
    "th": {
        "one": "ทอมมีแอปเปิล 1 ลูก",
        "twenty-one": "แอนนามีแอปเปิล 21 ลูก",
        "five": "โซเฟียมีหนังสือห้าเล่ม",
        "object": "แอนนาซื้อหนังสือ 21 เล่ม",
        "two": "ทอมให้ดินสอสองแท่งแก่เพื่อน",
        "how many": "ตอนนี้โอลก้ามีส้มกี่ลูก",
        "more": "ทอมมีลูกบอลมากกว่าแอนนา 3 ลูก",
        "fewer": "แม็กซ์มีมะนาวน้อยกว่าอีวา 1 ลูก",
        "times": "แอนนามีเทียนเป็น 3 เท่าของทอม",
        "share": "ทอมแบ่งถ้วยทั้งหมดให้เพื่อน 3 คนเท่า ๆ กัน",
        "price": "ไข่ราคาฟองละ 1 ดอลลาร์",
        "both": "ทั้งสองคนมีดอกกุหลาบรวมกันกี่ดอก",
        "age": "มาเรียอายุ 31 ปี",
        "older": "ปีเตอร์อายุมากกว่าแอนนา 2 ปี",
    },
    "bn": {
        "one": "টমের কাছে 1টি আপেল আছে।",
        "twenty-one": "আনার কাছে 21টি আপেল আছে।",
        "five": "সোফিয়ার কাছে পাঁচটি বই আছে।",
        "object": "আনা 21টি বই কেনে।",
        "two": "টম একজন বন্ধুকে দুটি পেন্সিল দেয়।",
        "how many": "এখন ওলগার কাছে কয়টি কমলা আছে?",
        "more": "টমের কাছে আনার চেয়ে 3টি বল বেশি আছে।",
        "fewer": "ম্যাক্সের কাছে ইভার চেয়ে 1টি লেবু কম আছে।",
        "times": "আনার কাছে টমের 3 গুণ মোমবাতি আছে।",
        "share": "টম সবগুলো কাপ 3 জন বন্ধুর মধ্যে সমানভাবে ভাগ করে দেয়।",
        "price": "একটি ডিমের দাম 1 ডলার।",
        "both": "দুজনের কাছে মোট কয়টি গোলাপ আছে?",
        "age": "মারিয়ার বয়স 31 বছর।",
        "older": "পিটার আনার চেয়ে 2 বছরের বড়।",
    },
}


@pytest.mark.parametrize("code", CODES)
def test_sentences_are_those_written_by_hand(code):
    data = language_data(code)
    for name, (key, wording, first, second, item, x, spelled) in CASES.items():
        slots = Slots((first, second), (PEOPLE[first], PEOPLE[second]), item, x=x, spelled=spelled)
        expected = unicodedata.normalize("NFC", GOLDEN[code][name])
        assert data.render(data.sentences[key][wording], slots) == expected, name


@pytest.mark.parametrize(
    ("code", "item", "number", "expected"),
    [
        ("ru", "pear", 21, "грушу"),
        ("ru", "pear", 22, "груши"),
        ("ru", "pear", 11, "груш"),
        ("ru", "egg", 5, "яиц"),
        ("de", "hat", 1, "Hut"),
        ("fr", "hat", 21, "chapeaux"),
        ("es", "pencil", 21, "lápices"),
        ("sw", "spoon", 1, "kijiko"),
        ("sw", "candle", 31, "mishumaa"),
        ("en", "tomato", 21, "tomatoes"),
    ],
)
def test_nouns_follow_cldr_plurals(code, item, number, expected):
    assert language_data(code).noun(item, number, "acc") == expected


def test_german_one_agrees_in_case_and_gender():
    data = language_data("de")
    slots = Slots(("Tom", "Anna"), ("m", "f"), "apple", x=1, spelled=True)
    assert data.render("{N} kauft {x item acc}.", slots) == "Tom kauft einen Apfel."
    assert data.render("{x item} fehlt.", slots) == "Ein Apfel fehlt."


@pytest.mark.parametrize("code", CODES)
def test_every_language_has_the_same_keys_and_wordings(code):
    data, english = language_data(code), language_data("en")
    assert list(data.sentences) == list(english.sentences)
    assert {k: len(v) for k, v in data.sentences.items()} == {k: len(v) for k, v in english.sentences.items()}
    assert set(data.solutions) == set(english.solutions)
    assert set(data.nouns) >= set(english.nouns)
    assert list(data.generic["sentences"]) == list(english.generic["sentences"])
    assert {k: len(v) for k, v in data.generic["words"].items()} == {
        k: len(v) for k, v in english.generic["words"].items()
    }
    if data.names:
        assert set(data.names) == set(PEOPLE)


def test_the_world_is_as_large_as_promised():
    assert len(ITEMS) >= 24
    assert len(PEOPLE) >= 24
    assert sorted(PEOPLE.values()).count("f") == 12
    assert len({schema.family for schema in SCHEMAS if schema.family != "travel"}) >= 8
    for wordings in language_data("en").sentences.values():
        assert len(wordings) >= 2
        assert len(set(wordings)) == len(wordings)


@pytest.fixture(scope="module")
def problems():
    """Every schema of both worlds, several times."""
    inside, outside = World("test"), World("test", "test", held_out=True)
    return inside.distinct(500) + outside.distinct(250)


@pytest.mark.parametrize("code", CODES)
def test_text_is_clean_and_in_its_script(code, problems):
    allowed = re.compile(rf"[0-9 .,:?'+*/=\n{LETTERS[code]}-]*")
    latin_names = code in ("de", "fr", "es", "sw", "en")
    texts = [question(p, code) for p in problems]
    texts += [solution(p, code, style) for p in problems for style in STYLES if code == "en" or style != "restating"]
    texts += [render_generic(sentence, code) for sentence in distinct_generic(random.Random(0), 300)]
    for text in texts:
        assert not re.search(r"[{}_]|  |^ | $| [.,。？।]", text), text
        assert allowed.fullmatch(text), (text, set(re.sub(allowed, "", text)))
        assert unicodedata.is_normalized("NFC", text)
        if not latin_names:
            assert not re.search("[A-Za-z]", text), text


@pytest.mark.parametrize("code", CODES)
def test_a_language_has_one_question_mark_and_one_full_stop(code, problems):
    mark = {"ja": "？", "zh": "？", "th": "", "fr": " ?"}.get(code, "?")
    stop = {"ja": "。", "zh": "。", "th": "", "bn": "।"}.get(code, ".")
    for problem in problems:
        *told, asked = statements(problem, code)
        assert asked.endswith(mark)
        assert all(sentence.endswith(stop) for sentence in told)


def test_all_languages_tell_the_same_numbers(problems):
    for problem in problems:
        if problem.spelled:
            continue
        expected = [str(number) for number in problem.numbers]
        for code in CODES:
            text = question(problem, code)
            digits = re.findall(r"[0-9]+|[০-৯]+|[๐-๙]+", text)
            assert sorted(str(int(number)) for number in digits) == sorted(expected), (code, text)
            if problem.native_digits and code in NATIVE_DIGITS:
                assert not re.search("[0-9]", text)


def test_numbers_are_sometimes_words_and_sometimes_native_digits():
    problems = World("realism").distinct(1000)
    spelled = [p for p in problems if p.spelled and min(p.numbers) <= 10]
    assert 60 < len(spelled) < 200
    assert any(not re.search("[0-9]", question(p, "en")) for p in spelled)
    assert 20 < sum(p.native_digits for p in problems) < 120


def test_held_out_words_occur_in_no_training_question():
    world = World("words")
    text = " ".join(question(p, "en") for p in world.distinct(1500))
    nouns = language_data("en").nouns
    for item in HELD_OUT_ITEMS:
        assert not re.search(rf"\b({nouns[item]['one']}|{nouns[item]['other']})\b", text)
    assert "kilometer" not in text
    assert "in the city" not in text


def test_an_unknown_placeholder_names_file_and_template():
    with pytest.raises(ValueError, match=r"languages/de.yaml: \{x pizza\}"):
        language_data("de").render("{N} isst {x pizza}.", Slots(("Tom", "Anna")))
