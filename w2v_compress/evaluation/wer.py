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
"""Largest number of resampled utterances in memory at a time."""


@dataclass(frozen=True)
class ErrorCounts:
    """Edit distance and reference length of each utterance, two arrays (utterances,)."""

    errors: np.ndarray
    lengths: np.ndarray

    @property
    def rate(self) -> float:
        """Total errors divided by total reference length, as a fraction."""
        return float(self.errors.sum() / self.lengths.sum())


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its 95% bootstrap interval, as fractions."""

    value: float
    low: float
    high: float

    def percent(self) -> str:
        """Format as `12.34% [11.20, 13.50]`."""
        return f"{100 * self.value:.2f}% [{100 * self.low:.2f}, {100 * self.high:.2f}]"


def align_words(references: Sequence[str], hypotheses: Sequence[str]) -> jiwer.WordOutput:
    """Align each hypothesis with its reference word by word, and count substitutions, deletions and insertions.

    Words are separated by white space; case and punctuation are compared. Raises `InputError` when no reference has a
    word.
    """
    return jiwer.process_words(*_single_spaced(references, hypotheses))


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Count the word errors of each hypothesis, aligned by `align_words`."""
    return counts_of(align_words(references, hypotheses))


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Count the character errors of each hypothesis; the single space between two words is a character."""
    return counts_of(jiwer.process_characters(*_single_spaced(references, hypotheses)))


def counts_of(alignment: jiwer.WordOutput | jiwer.CharacterOutput) -> ErrorCounts:
    """Return the errors and the reference length of each aligned pair."""
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
    """Return the error rate of a test set with the interval from resampling its utterances, seeded by `seed`."""
    return _bootstrapped(counts.errors, counts.lengths, seed, resamples)


def compare(first: ErrorCounts, second: ErrorCounts, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Return the error rate of `second` minus that of `first` on the same utterances; negative if `second` is better.

    The bootstrap is paired: it resamples the same utterances for both, so that utterances that are difficult for both
    do not widen the interval. Raises `InputError` when the reference lengths differ.
    """
    if not np.array_equal(first.lengths, second.lengths):
        raise InputError("two systems can only be compared on the same utterances in the same order")
    return _bootstrapped(second.errors - first.errors, first.lengths, seed, resamples)


def _single_spaced(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[list[str], list[str]]:
    """Replace each run of white space by one space, and check that the texts are pairs with some reference words."""
    if len(references) != len(hypotheses):
        raise ValueError(f"there are {len(references)} references and {len(hypotheses)} hypotheses")
    spaced = [[" ".join(text.split()) for text in texts] for texts in (references, hypotheses)]
    if not any(spaced[0]):
        raise InputError("an error rate needs references with at least one word")
    return spaced[0], spaced[1]


def _bootstrapped(errors: np.ndarray, lengths: np.ndarray, seed: int, resamples: int) -> Interval:
    """Return total errors divided by total length, with the percentile bootstrap interval over utterances."""
    value = float(errors.sum() / lengths.sum())
    if len(lengths) == 1:
        return Interval(value, value, value)

    def rate(errors: Any, lengths: Any, axis: int) -> Any:
        errors, lengths = errors.sum(axis), lengths.sum(axis)
        # Where most references are empty, a resampled set may have no reference words at all.
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
