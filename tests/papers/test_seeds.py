"""Intervals over seeds and over utterances."""

import math

import numpy as np
import pytest

from w2v_compress.evaluation.wer import ErrorCounts
from w2v_compress.papers.seeds import combined_interval, difference, seed_interval


def counts(errors: list[int], words: int = 10) -> ErrorCounts:
    return ErrorCounts(np.array(errors), np.full(len(errors), words))


def test_interval_over_seeds_is_a_t_interval() -> None:
    interval = seed_interval([0.1, 0.2, 0.3])
    assert interval["value"] == pytest.approx(0.2)
    assert interval["high"] - interval["value"] == pytest.approx(4.302653 * 0.1 / math.sqrt(3))
    assert seed_interval([0.1, 0.3])["low"] == pytest.approx(0.2 - 12.706205 * math.sqrt(0.02) / math.sqrt(2))


def test_differences_are_paired_by_seed_and_utterance() -> None:
    """Each utterance has one more error, a difference far smaller than those between seeds and utterances."""
    fewer = [counts([0, 4, 8, 2]), counts([5, 1, 9, 0])]
    more = [ErrorCounts(run.errors + 1, run.lengths) for run in fewer]
    gain = difference(more, fewer)
    for interval in (gain["over_seeds"], gain["over_strings"]):
        assert interval == pytest.approx({"value": -0.1, "low": -0.1, "high": -0.1})


def test_the_combined_interval_adds_the_variation_of_seeds_and_utterances() -> None:
    seeds = {"value": 0.1, "low": 0.07, "high": 0.13}
    utterances = {"value": 0.1, "low": 0.06, "high": 0.15}
    combined = combined_interval({"over_seeds": seeds, "over_strings": utterances})
    assert combined == pytest.approx({"value": 0.1, "low": 0.1 - 0.05, "high": 0.1 + math.hypot(0.05, 0.03)})
    assert combined_interval({"over_seeds": None, "over_strings": utterances}) == utterances
