"""Error rates against counts by hand, and intervals against the binomial distribution."""

import editdistance
import numpy as np
import pytest

from w2v_compress.errors import InputError
from w2v_compress.evaluation.wer import (
    ErrorCounts,
    align_words,
    character_errors,
    compare,
    counts_of,
    error_rate,
    word_errors,
)


def test_hand_counted_word_and_character_errors() -> None:
    references = ["the cat sat", "on the mat", "", "yes"]
    hypotheses = ["the cat sat", "in the big  mat", "uh", ""]
    words = word_errors(references, hypotheses)
    assert words.errors.tolist() == [0, 2, 1, 1]
    assert words.lengths.tolist() == [3, 3, 0, 1]
    assert words.rate == 4 / 7
    characters = character_errors(references, hypotheses)
    assert characters.errors.tolist() == [0, 5, 2, 3]
    assert characters.lengths.tolist() == [11, 10, 0, 3]


def test_kinds_of_errors_and_their_places() -> None:
    alignment = align_words(["the cat  sat", "yes", "on"], ["a cat sat down", "", "on"])
    assert (alignment.substitutions, alignment.deletions, alignment.insertions) == (1, 1, 1)
    assert [[chunk.type for chunk in chunks] for chunks in alignment.alignments] == [
        ["substitute", "equal", "insert"],
        ["delete"],
        ["equal"],
    ]
    assert counts_of(alignment).errors.tolist() == [2, 1, 0]


def test_counts_are_edit_distances() -> None:
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(list("abcde"), size=size)) for size in generator.integers(1, 30, 200)]
    references, hypotheses = texts[:100], texts[100:]
    expected = [editdistance.eval(one.split(), two.split()) for one, two in zip(references, hypotheses, strict=True)]
    assert word_errors(references, hypotheses).errors.tolist() == expected
    expected = [editdistance.eval(one, two) for one, two in zip(references, hypotheses, strict=True)]
    assert character_errors(references, hypotheses).errors.tolist() == expected


def test_one_utterance_has_no_interval() -> None:
    interval = error_rate(word_errors(["a b"], ["a c"]))
    assert (interval.value, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_interval_agrees_with_the_binomial_distribution() -> None:
    """One-word utterances, a quarter of them wrong: the standard error is sqrt(p (1 - p) / n)."""
    counts = ErrorCounts(np.arange(1000) % 4 == 0, np.ones(1000, dtype=np.int64))
    interval = error_rate(counts)
    half = 1.96 * np.sqrt(0.25 * 0.75 / 1000)
    assert interval.value == 0.25
    assert interval.low == pytest.approx(0.25 - half, abs=0.004)
    assert interval.high == pytest.approx(0.25 + half, abs=0.004)


def test_interval_is_a_function_of_the_seed() -> None:
    counts = ErrorCounts(np.arange(50) % 3, np.arange(50) % 7 + 3)
    assert error_rate(counts, seed=1) == error_rate(counts, seed=1) != error_rate(counts, seed=2)


def test_large_sets_are_resampled_in_blocks() -> None:
    errors = np.random.default_rng(0).integers(0, 3, 10_000)
    counts = ErrorCounts(errors, np.full(10_000, 10))
    interval = error_rate(counts, resamples=1000)
    half = 1.96 * errors.std() / 10 / np.sqrt(10_000)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    errors = np.random.default_rng(0).integers(0, 80, 200)
    lengths = np.full(200, 100)
    first, second = ErrorCounts(errors + 1, lengths), ErrorCounts(errors, lengths)
    difference = compare(first, second)
    assert difference.value == pytest.approx(-0.01)
    assert difference.low == pytest.approx(-0.01)
    assert difference.high == pytest.approx(-0.01)
    assert error_rate(second).high > error_rate(first).low
    same = compare(first, first)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_invalid_texts_are_rejected() -> None:
    with pytest.raises(InputError, match="at least one word"):
        word_errors(["", " "], ["a", "b"])
    with pytest.raises(InputError, match="same utterances"):
        compare(word_errors(["a b"], ["a"]), word_errors(["a"], ["a"]))
    with pytest.raises(ValueError, match="2 references and 1 hypotheses"):
        word_errors(["a", "b"], ["a"])


def test_interval_is_finite_when_most_references_are_empty() -> None:
    interval = error_rate(word_errors(["a b", "", ""], ["a c", "", ""]))
    assert interval.value == 0.5
    assert np.isfinite([interval.low, interval.high]).all()
