"""Word and character error rates with bootstrap intervals (Bisani & Ney 2004)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import editdistance
import numpy as np

from ..errors import InputError

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class ErrorCounts:
    """Edit distance and reference length of each utterance: (utterances,) each."""

    errors: np.ndarray
    lengths: np.ndarray

    @property
    def rate(self) -> float:
        """Errors over reference length of the whole set, as a fraction."""
        return float(self.errors.sum() / self.lengths.sum())


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 95% bootstrap interval, as fractions."""

    value: float
    low: float
    high: float

    def percent(self) -> str:
        """`12.34% [11.20, 13.50]`"""
        return f"{100 * self.value:.2f}% [{100 * self.low:.2f}, {100 * self.high:.2f}]"


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Words are what white space separates."""
    return _errors(references, hypotheses, str.split)


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Characters include the single space between words."""
    return _errors(references, hypotheses, lambda text: list(" ".join(text.split())))


def error_rate(counts: ErrorCounts, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The error rate of the set; its interval comes from resampling utterances, a function of `seed` alone."""
    totals = _resampled(np.stack([counts.errors, counts.lengths]), seed, resamples)
    return _interval(counts.rate, totals[:, 0] / totals[:, 1])


def compare(first: ErrorCounts, second: ErrorCounts, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Rate of `second` minus rate of `first` on the same utterances: below 0, and `second` is better.

    Both are resampled together, so that what is hard for both does not widen the interval.
    """
    if not np.array_equal(first.lengths, second.lengths):
        raise InputError("two systems can be compared only on the same utterances in the same order")
    totals = _resampled(np.stack([second.errors - first.errors, first.lengths]), seed, resamples)
    return _interval(second.rate - first.rate, totals[:, 0] / totals[:, 1])


def _errors(references: Sequence[str], hypotheses: Sequence[str], split: Callable[[str], list[str]]) -> ErrorCounts:
    pairs = [(split(reference), split(text)) for reference, text in zip(references, hypotheses, strict=True)]
    lengths = np.array([len(reference) for reference, _ in pairs], dtype=np.int64)
    if not lengths.sum():
        raise InputError("an error rate needs references with at least one word")
    return ErrorCounts(np.array([editdistance.eval(*pair) for pair in pairs], dtype=np.int64), lengths)


def _resampled(values: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Sums of `values` (quantities, utterances) over each resampled set: (resamples, quantities).

    Sets without any reference word, possible when most references are empty, are left out.
    """
    generator = np.random.default_rng(seed)
    count = values.shape[1]
    block = max(1, 4_000_000 // count)  # bounds the memory of large test sets
    totals = []
    for start in range(0, resamples, block):
        drawn = generator.integers(count, size=(min(block, resamples - start), count))
        totals.append(values[:, drawn].sum(-1).T)
    sums = np.concatenate(totals)
    return sums[sums[:, -1] > 0]


def _interval(value: float, resampled: np.ndarray) -> Interval:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return Interval(value, float(low), float(high))
