"""Words with their times, from the units of each frame.

Frame t is taken for the audio from t to t + 1 hops (20 ms each in the published models). The network sees 5 ms more,
to 25 ms from the frame's start, and through its context all of the audio: times are as good as where CTC puts its
peaks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from ...data.units import SPECIALS, Units


@dataclass(frozen=True)
class Word:
    """A word and when it was said."""

    text: str
    start: float
    """Seconds from the beginning of the audio: where the first frame of its first unit begins."""
    end: float
    """Where the last frame of its last unit ends."""


@dataclass(frozen=True)
class Decoded:
    """What a decoder makes of one piece of audio."""

    text: str
    """The words with spaces between them."""
    words: tuple[Word, ...]

    @classmethod
    def of(cls, words: Sequence[Word]) -> "Decoded":
        """`words` and the text that they make."""
        return cls(" ".join(word.text for word in words), tuple(words))


class Decoder(Protocol):
    """Any function from log-probabilities (frames, units) to words."""

    def __call__(self, log_probs: Tensor, /) -> Decoded: ...


def seconds_at(frame: int, seconds_per_frame: float) -> float:
    """Where `frame` begins, to the microsecond: 0.7 s rather than 0.7000000000000001 s."""
    return round(frame * seconds_per_frame, 6)


def words_of_path(path: Tensor, units: Units, seconds_per_frame: float) -> Decoded:
    """The words of a CTC path, (frames,) units: repeats are one, blanks and the other specials say nothing.

    Text is that of `Units.decode` for the collapsed path (Graves et al. 2006, section 3.2).
    """
    words: list[Word] = []
    letters, start, end = "", 0, 0

    def close() -> None:
        nonlocal letters
        if letters:
            words.append(Word(letters, seconds_at(start, seconds_per_frame), seconds_at(end, seconds_per_frame)))
        letters = ""

    for unit, first, last in _runs(path):
        if unit < len(SPECIALS):
            continue
        for place, part in enumerate(units.symbols[unit].split(units.word_separator)):
            if place > 0:
                close()
            if part:
                start = start if letters else first
                letters, end = letters + part, last
    close()
    return Decoded.of(words)


def _runs(path: Tensor) -> Iterator[tuple[int, int, int]]:
    """Each stretch of one unit: the unit, its first frame, and the frame after its last."""
    units, counts = torch.unique_consecutive(path, return_counts=True)
    bounds = [0, *counts.cumsum(0).tolist()]
    for unit, (first, last) in zip(units.tolist(), pairwise(bounds), strict=True):
        yield unit, first, last
