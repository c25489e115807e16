"""Greedy decoding and word times, compared with the definition, transformers and sentencepiece."""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from w2v_compress.data.units import SPECIALS, Units
from w2v_compress.runtime.decoding import DecodedText, GreedyDecoder, Word
from w2v_compress.runtime.decoding.words import LogProbs, words_of_path

HOP = 0.02


def one_hot(path: Iterable[int], units: Units) -> LogProbs:
    return np.eye(len(units.symbols), dtype=np.float32)[list(path)]


def test_text_equals_the_definition_on_every_short_path() -> None:
    units = Units("letter", (*SPECIALS, "|", "A"))
    decoder = GreedyDecoder(units, HOP)
    for path in itertools.product(range(6), repeat=4):
        collapsed = [unit for unit, _ in itertools.groupby(path)]
        decoded = decoder(one_hot(path, units))
        assert words_of_path(path, units, HOP) == decoded
        assert decoded.text == units.decode(collapsed)
        assert decoded.text == " ".join(word.text for word in decoded.words)
        assert not any(special in decoded.text for special in SPECIALS)


def test_words_and_times_are_those_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    units = Units.letters()
    vocabulary = tmp_path / "vocab.json"
    vocabulary.write_text(json.dumps({symbol: unit for unit, symbol in enumerate(units.symbols)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(vocabulary), pad_token="<s>", word_delimiter_token="|")
    decoder = GreedyDecoder(units, HOP)
    generator = np.random.default_rng(1)
    spoken = np.array([0, *range(len(SPECIALS), 12)])  # the blank, `|` and seven letters
    for length in (1, 7, 50, 400):
        path = np.repeat(generator.choice(spoken, length), generator.integers(1, 4, length)).tolist()
        expected = tokenizer.decode(path, output_word_offsets=True)
        decoded = decoder(one_hot(path, units))
        assert decoded.text == " ".join(expected.text.split())
        assert [(word.text, word.start, word.end) for word in decoded.words] == [
            (word["word"], pytest.approx(HOP * word["start_offset"]), pytest.approx(HOP * word["end_offset"]))
            for word in expected.word_offsets
            if word["word"]
        ]


def test_sentencepiece_words_begin_with_the_piece_that_begins_them() -> None:
    units = Units.train_sentencepiece(["the cat sat", "a cat sat on the mat", "that hat"], 14)
    texts = ("the cat sat", "a mat on that", "that a a hat")
    decoder = GreedyDecoder(units, HOP)
    for text in texts:
        path, bounds = [0, 0], []
        for word in text.split():
            first = len(path)
            for piece in units.encode(word):
                path += [piece, piece, 0]  # two frames each, then a blank
            bounds.append((word, first, len(path) - 1))
        decoded = decoder(one_hot([*path, 0], units))
        assert decoded.text == text
        lone = len(units.word_separator)
        for word, (expected, first, last) in zip(decoded.words, bounds, strict=True):
            begins_alone = len(units.symbols[path[first]]) == lone  # a piece that is only the separator is silent
            assert word == Word(expected, round(HOP * (first + 3 * begins_alone), 6), round(HOP * last, 6))


def test_nothing_was_said() -> None:
    units = Units.letters()
    decoder = GreedyDecoder(units, HOP)
    assert decoder(np.zeros((0, 32), np.float32)) == DecodedText("", ())
    assert decoder(one_hot([0] * 50, units)) == DecodedText("", ())
    assert decoder(one_hot([0, 4, 4, 1, 2, 3, 4, 0], units)) == DecodedText("", ())


def test_the_last_word_needs_no_end() -> None:
    units = Units.letters()
    (frames,) = (units.encode("AT"),)
    assert GreedyDecoder(units, 0.01)(one_hot([*frames[:-1], frames[1]], units)).words == (Word("AT", 0.0, 0.03),)
