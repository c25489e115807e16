"""Word and character error rates with bootstrap intervals (Bisani & Ney 2004)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np
from scipy import stats

from ..errors import InputError

RESAMPLES = 2000
CONFIDENCE = 0.95
VALUES_AT_ONCE = 4_000_000
"""Drawn utterances that are held at a time: bounds the memory of large test sets."""


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


def align_words(references: Sequence[str], hypotheses: Sequence[str]) -> jiwer.WordOutput:
    """Jiwer's alignment of each pair of texts, with the substitutions, deletions and insertions of all. Words are what
    white space separates; case and punctuation count. Raises `InputError` when no reference has a word.
    """
    return jiwer.process_words(*_single_spaced(references, hypotheses))


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Word errors of each pair; words and errors are those of `align_words`."""
    return counts_of(align_words(references, hypotheses))


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Character errors of each pair. Characters include the single space between words."""
    return counts_of(jiwer.process_characters(*_single_spaced(references, hypotheses)))


def counts_of(alignment: jiwer.WordOutput | jiwer.CharacterOutput) -> ErrorCounts:
    """The errors of each pair that was aligned."""
    errors = [
        sum(
            max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            for chunk in chunks
            if chunk.type != "equal"
        )
        for chunks in alignment.alignments
    ]
    lengths = [len(reference) for reference in alignment.references]
    return ErrorCounts(np.array(errors, np.int64), np.array(lengths, np.int64))


def error_rate(counts: ErrorCounts, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The error rate of the set; its interval comes from resampling utterances, a function of `seed` alone."""
    return _bootstrapped(counts.errors, counts.lengths, seed, resamples)


def compare(first: ErrorCounts, second: ErrorCounts, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Rate of `second` minus rate of `first` on the same utterances: below 0, and `second` is better.

    Both are resampled together, so that what is hard for both does not widen the interval.
    """
    if not np.array_equal(first.lengths, second.lengths):
        raise InputError("two systems can be compared only on the same utterances in the same order")
    return _bootstrapped(second.errors - first.errors, first.lengths, seed, resamples)


def _single_spaced(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[list[str], list[str]]:
    if len(references) != len(hypotheses):
        raise ValueError(f"there are {len(references)} references and {len(hypotheses)} hypotheses")
    spaced = [[" ".join(text.split()) for text in texts] for texts in (references, hypotheses)]
    if not any(spaced[0]):
        raise InputError("an error rate needs references with at least one word")
    return spaced[0], spaced[1]


def _bootstrapped(errors: np.ndarray, lengths: np.ndarray, seed: int, resamples: int) -> Interval:
    """Errors over length of the set, with the percentile interval over sets of utterances drawn from it."""
    value = float(errors.sum() / lengths.sum())
    if len(lengths) == 1:
        return Interval(value, value, value)

    def rate(errors: Any, lengths: Any, axis: int) -> Any:
        errors, lengths = errors.sum(axis), lengths.sum(axis)
        # A drawn set may have no reference words at all, where most references are empty.
        return np.where(lengths > 0, errors / np.maximum(lengths, 1), value)

    ends = stats.bootstrap(
        (errors, lengths),
        rate,
        n_resamples=resamples,
        batch=max(1, VALUES_AT_ONCE // len(lengths)),
        vectorized=True,
        paired=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(value, float(ends.low), float(ends.high))
