import json
from pathlib import Path

import pytest

from w2v_compress.data.units import LETTERS, SPECIALS, Units
from w2v_compress.errors import InputError

TEXTS = ["THE CAT SAT ON THE MAT", "A DOG'S LIFE", "IT IS RAINING CATS AND DOGS", "THE DOG SAT"] * 3


@pytest.fixture(scope="module")
def pieces() -> Units:
    return Units.train_sentencepiece(TEXTS, 24)


def test_letters_equal_those_of_fairseq() -> None:
    # https://dl.fbaipublicfiles.com/fairseq/wav2vec/dict.ltr.txt, without its counts
    published = "| E T A O N I H S R D L U M W C F G Y P B V K ' X J Q Z"
    assert " ".join(Units.letters().symbols) == f"<s> <pad> </s> <unk> {published}"


def test_letter_labels() -> None:
    units = Units.letters()
    assert units.labels("IT'S  SO ") == "I T ' S | S O |"
    assert units.encode("TEE A") == [6, 5, 5, 4, 7, 4]
    assert units.decode([6, 5, 5, 4, 7, 4]) == "TEE A"
    assert units.decode([0, 4, 4, 6, 3, 4, 4, 1, 7, 2]) == "T A"  # blanks and repeated word ends add nothing
    assert units.encode("") == []


def test_pieces_round_trip(pieces: Units) -> None:
    assert len(pieces.symbols) == 4 + 24
    assert pieces.symbols[:4] == SPECIALS
    for text in (*TEXTS, "CATS LIE"):
        assert pieces.decode(pieces.encode(text)) == text
        assert [pieces.symbols[unit] for unit in pieces.encode(text)] == pieces.labels(text).split(" ")
    assert any(len(piece) > 2 for piece in pieces.symbols[4:])  # more than letters


def test_equal_texts_give_equal_pieces(pieces: Units) -> None:
    assert Units.train_sentencepiece(TEXTS, 24) == pieces
    assert Units.train_sentencepiece(TEXTS, 23) != pieces


@pytest.mark.parametrize("text", ["GO 2 IT", "É", "a", "A|B"])
def test_characters_outside_the_letters(text: str) -> None:
    unknown = {"GO 2 IT": "2", "É": "É", "a": "a", "A|B": r"\|"}[text]
    with pytest.raises(InputError, match=f"not in the units: {unknown}$"):
        Units.letters().encode(text)


@pytest.mark.parametrize(
    ("text", "unknown"), [("THE ZOO", "Z"), ("THE 7 CATS", "7"), ("A\N{LOWER ONE EIGHTH BLOCK}T", "▁")]
)
def test_characters_outside_the_pieces(text: str, unknown: str, pieces: Units) -> None:
    with pytest.raises(InputError, match=f"not in the units: {unknown}$"):
        pieces.encode(text)


@pytest.mark.parametrize(
    ("symbols", "expected"),
    [("|AB", "AÉ"), ("|ab", "aé"), ("|aB", "aÉ")],
)
def test_text_is_converted_to_the_case_of_the_units(symbols: str, expected: str) -> None:
    units = Units("letter", (*SPECIALS, *symbols, "madeupword0000"))
    assert units.normalize_text(" aE\N{COMBINING ACUTE ACCENT}\n") == expected


def test_json_round_trip(pieces: Units) -> None:
    for units in (Units.letters(), pieces):
        assert Units.from_dict(json.loads(json.dumps(units.to_dict()))) == units


def test_dictionary_round_trip(pieces: Units, tmp_path: Path) -> None:
    for units in (Units.letters(), pieces):
        path = tmp_path / units.dictionary_name
        units.write_dictionary(path)
        assert Units.read_dictionary(path, units.kind) == units


def test_fairseq_reads_the_same_classes(pieces: Units, tmp_path: Path) -> None:
    dictionary_class = pytest.importorskip("fairseq.data").Dictionary
    for units in (Units.letters(), pieces):
        path = tmp_path / units.dictionary_name
        units.write_dictionary(path)
        dictionary = dictionary_class.load(str(path))
        assert tuple(dictionary.symbols) == units.symbols
        for text in TEXTS:
            line = dictionary.encode_line(units.labels(text) + "\n", append_eos=False, add_if_not_exist=False)
            assert line.tolist() == units.encode(text)


def test_dictionaries_padded_by_fairseq_are_read(tmp_path: Path) -> None:
    dictionary_class = pytest.importorskip("fairseq.data").Dictionary
    dictionary = dictionary_class()
    for letter in LETTERS:
        dictionary.add_symbol(letter, n=100)
    dictionary.finalize(padding_factor=8)
    dictionary.pad_to_multiple_(9)
    dictionary.save(str(tmp_path / "dict.ltr.txt"))
    units = Units.read_dictionary(tmp_path / "dict.ltr.txt")
    assert units.symbols == tuple(dictionary.symbols)
    assert any(symbol.startswith("madeupword") for symbol in units.symbols)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("| 1\nE\n", "line 2 is 'E'"),
        ("| 1\nE x\n", "line 2 is 'E x'"),
        ("", "line 1 is ''"),
        ("| 1\nE 1\nE 1\n", "line 3: the symbol 'E' is in line 2 too"),
        ("| 1\n<s> 1\n", "'<s>' is listed twice"),
        ("A 1\n", r"need the symbol '\|'"),
        ("| 1\nA B 1\n", "'A B' is not a symbol"),
    ],
)
def test_invalid_dictionaries_are_rejected(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "dict.ltr.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        Units.read_dictionary(path)
    assert str(caught.value).startswith(str(path))


def test_unreadable_dictionaries_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        Units.read_dictionary(tmp_path / "dict.ltr.txt")
    (tmp_path / "dict.ltr.txt").write_bytes(b"\xff\xfe 1\n")
    with pytest.raises(InputError, match="UTF-8"):
        Units.read_dictionary(tmp_path / "dict.ltr.txt")
    Units.letters().write_dictionary(tmp_path / "dict.spm.txt")
    with pytest.raises(InputError, match=r"spm\.model: cannot be read"):
        Units.read_dictionary(tmp_path / "dict.spm.txt", "sentencepiece")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "word"}, "`kind` is 'word'"),
        ({"symbols": ["a", "b"]}, "first symbols"),
        ({"symbols": [*SPECIALS, "|", 5]}, "5 is not a symbol"),
        ({"symbols": 5}, "units: "),
        ({"sentencepiece": "!"}, "units: "),
        ({"sentencepiece": "AAAA"}, "and only they, need a `sentencepiece` model"),
        ({"kind": "sentencepiece"}, "and only they, need a `sentencepiece` model"),
        ({"kind": "sentencepiece", "sentencepiece": "AAAA"}, "model cannot be read"),
    ],
)
def test_invalid_fields_are_rejected(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Units.from_dict(Units.letters().to_dict() | change)


def test_missing_field() -> None:
    with pytest.raises(InputError, match="'kind' is missing"):
        Units.from_dict({"symbols": [], "sentencepiece": None})


@pytest.mark.parametrize("unit", [-1, 32])
def test_classes_outside_the_units(unit: int) -> None:
    with pytest.raises(InputError, match=f"class {unit} "):
        Units.letters().decode([5, unit])


@pytest.mark.parametrize(("size", "message"), [(5000, "too high"), (2, "smaller than")])
def test_a_vocabulary_size_that_the_texts_do_not_support_is_rejected(size: int, message: str) -> None:
    with pytest.raises(InputError, match=f"{size} sentencepiece pieces .*{message}"):
        Units.train_sentencepiece(TEXTS, size)


def test_pieces_without_text_are_rejected() -> None:
    with pytest.raises(InputError, match="cannot be trained"):
        Units.train_sentencepiece([], 10)
