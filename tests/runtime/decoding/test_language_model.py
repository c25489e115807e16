"""Valid, damaged, empty and malicious language models and lexicons."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from w2v_compress.data.units import SPECIALS, Units
from w2v_compress.errors import InputError
from w2v_compress.runtime.decoding.language_model import arpa_words, load_language_model
from w2v_compress.runtime.decoding.lexicon import MAX_LINE_BYTES, Spelling, read_lexicon, spell

pytest.importorskip("flashlight.lib.text.decoder")

UNITS = Units.letters()
WORDS = ["A", "AB", "BA", "BAD"]


def scores(model: object, words: list[str]) -> list[float]:
    """KenLM's log10-probabilities of the words and of the sentence end."""
    state, found = model.start(False), []  # type: ignore[attr-defined]
    for word in words:
        state, score = model.score(state, WORDS.index(word))  # type: ignore[attr-defined]
        found.append(score)
    return [*found, model.finish(state)[1]]  # type: ignore[attr-defined]


def test_scores_are_those_of_the_definition(
    arpa: Path,
    binary: Path,
    arpa_log10: Callable[[Path, str], list[float]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    packed = arpa.with_suffix(".arpa.gz")
    packed.write_bytes(gzip.compress(arpa.read_bytes()))
    for path in (arpa, packed, binary):
        model = load_language_model(path, WORDS)
        for text in ("A AB BA", "BAD BAD", "BA A AB", ""):
            assert scores(model, text.split()) == pytest.approx(arpa_log10(arpa, text), abs=1e-6)
    assert list(arpa_words(arpa)) == list(arpa_words(packed)) == ["<unk>", "<s>", "</s>", *WORDS]
    assert [each.word for each in spell(arpa_words(arpa), UNITS, arpa)] == WORDS
    assert capfd.readouterr() == ("", "")


def test_a_binary_does_not_list_its_words(binary: Path) -> None:
    with pytest.raises(InputError, match=r"a KenLM binary does not list its words: give a list with --lexicon"):
        list(arpa_words(binary))


def test_an_arpa_file_cut_short_anywhere_is_refused(arpa: Path) -> None:
    original = arpa.read_bytes()
    end = original.index(b"\\end\\")
    for length in (*range(0, end, 7), end):
        arpa.write_bytes(original[:length])
        with pytest.raises(InputError, match=str(arpa)) as caught:
            load_language_model(arpa, [each.word for each in spell(arpa_words(arpa), UNITS, arpa)])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ngram 2=6", "ngram 2=9", "KenLM cannot read it: "),
        ("ngram 1=7", "ngram 1=100000000000000", "of which the file has room for 74"),
        ("ngram 2=6", "ngram 2=99999999999999999999", "of which the file has room for 76"),
        ("-0.3\t<s> A", "0.3\t<s> A", "KenLM cannot read it: Positive log probability"),
        ("-0.4\tA AB", "-0.4\tA DOG", "KenLM cannot read it: Word DOG was not seen"),
        ("-0.9\tAB\t-0.25", "-0.9\tAB C\t-0.25\t7", "the 1-gram .* must be a number, a word and a number"),
        ("\\1-grams:", "\\one-grams:", "not a complete ARPA file: the 1-grams do not end"),
        ("BAD\t-0.1", "B\udcff\t-0.1", "line 13 is not UTF-8 text"),
    ],
)
def test_damaged_arpa_files_are_one_line(arpa: Path, old: str, new: str, message: str) -> None:
    arpa.write_text(arpa.read_text().replace(old, new, 1), errors="surrogateescape")
    with pytest.raises(InputError, match=message) as caught:
        load_language_model(arpa, [each.word for each in spell(arpa_words(arpa), UNITS, arpa)])
    assert str(caught.value).startswith(f"{arpa}: ")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_language_model(tmp_path: Path, arpa: Path) -> None:
    empty, missing, packed = tmp_path / "empty", tmp_path / "missing", tmp_path / "cut.gz"
    empty.touch()
    packed.write_bytes(gzip.compress(arpa.read_bytes())[:60])
    for path, message in (
        (empty, "the file is empty"),
        (missing, "no such file"),
        (tmp_path, "is not a plain file"),
        (packed, "is damaged or cut short"),
    ):
        with pytest.raises(InputError, match=f"{path}: {message}"):
            list(arpa_words(path))
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(b"\\data\\\n" + bytes(100 * MAX_LINE_BYTES)))
    with pytest.raises(InputError, match=f"has a line that is longer than {MAX_LINE_BYTES} bytes"):
        list(arpa_words(bomb))


def test_a_binary_on_which_kenlm_crashes_is_one_line(binary: Path) -> None:
    """KenLM does not validate most numbers in the header and in the tables."""
    original = binary.read_bytes()
    cut = original[: len(original) // 2]
    order = bytearray(original)
    order[88] ^= 0xFF
    for data in (cut, bytes(order), original[:88] + bytes(len(original) - 88)):
        binary.write_bytes(data)
        with pytest.raises(InputError, match=f"{binary}: (damaged: it crashes KenLM|KenLM cannot read it)") as caught:
            load_language_model(binary, WORDS)
        assert "\n" not in str(caught.value)


def test_words_in_another_case_are_rejected(arpa: Path) -> None:
    with pytest.raises(InputError, match="lacks all 2 words, such as ab: do they differ in case"):
        load_language_model(arpa, ["ab", "bad"])


def test_words_are_spelled_and_written_in_the_case_of_the_units(tmp_path: Path) -> None:
    (spelling,) = spell(["don't"], UNITS, tmp_path)
    assert spelling == Spelling("don't", "DON'T", tuple(UNITS.encode("DON'T")))
    pieces = Units.train_sentencepiece(["the cat sat", "a cat sat on the mat", "that hat"], 14)
    (spelling,) = spell(["CAT"], pieces, tmp_path)
    assert spelling == Spelling("CAT", "cat", tuple(pieces.encode("cat")))


def test_a_lexicon_with_and_without_units(tmp_path: Path) -> None:
    path = tmp_path / "lexicon"
    path.write_text("A\n\nAB\tA B |\nAB  A B\nAB B A\n")
    index = {symbol: unit for unit, symbol in enumerate(UNITS.symbols)}
    assert [(each.word, "".join(UNITS.symbols[unit] for unit in each.units)) for each in read_lexicon(path, UNITS)] == [
        ("A", "A|"),
        ("AB", "AB|"),
        ("AB", "BA|"),
    ]
    assert read_lexicon(path, UNITS)[0].units == (index["A"], index["|"])


def test_words_without_units_are_counted_and_some_named(tmp_path: Path) -> None:
    path = tmp_path / "lexicon"
    lost = [f"{number}TH" for number in range(7)]
    path.write_text("\n".join(["FINE", *lost, "GOOD G Ö D", f"PAD {SPECIALS[1]}"]))
    with pytest.warns(UserWarning, match="are left out") as caught:
        assert [each.word for each in read_lexicon(path, UNITS)] == ["FINE"]
    (warning,) = caught
    assert str(warning.message) == (
        f"{path}: 9 words are left out, for which the model has no units: 0TH 1TH 2TH 3TH 4TH ..."
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "contains no word"),
        ("Ö\nÜ\n".encode(), r"none of its 2 words can be spelled in the model's units, \| E T A O \.\.\."),
        (b"A\n\xff\n", "line 2 is not UTF-8 text"),
        (b"A" * 200_000, "line 1 is longer than 100000 bytes"),
        (struct.pack("<8f", *range(8)), "(line 1 is not UTF-8 text|can be spelled)"),
    ],
)
def test_files_that_are_no_lexicon(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "lexicon"
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"{path}: .*{message}"):
        read_lexicon(path, UNITS)
    with pytest.raises(InputError, match="is not a plain file"):
        read_lexicon(tmp_path, UNITS)
