"""Convert the units of each frame to words with times.

Frame t stands for the audio from t to t + 1 hops (20 ms each in the published models). Its receptive field is 5 ms
longer, and its context is all of the audio, so times are as accurate as the positions of CTC's peaks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ...data.units import SPECIALS, Units

LogProbs = npt.NDArray[np.float32]
"""Log-probabilities of units, `(frames, units)`."""
UnitPath = Sequence[int] | npt.NDArray[np.integer[Any]]
"""The unit of each frame, `(frames,)`."""


@dataclass(frozen=True)
class Word:
    """A word and its time in the audio."""

    text: str
    start: float
    """Start of the first frame of the first unit, in seconds from the beginning of the audio."""
    end: float
    """End of the last frame of the last unit, in seconds from the beginning of the audio."""


@dataclass(frozen=True)
class DecodedText:
    """The text that a decoder produces for one recording."""

    text: str
    """The words, joined by spaces."""
    words: tuple[Word, ...]

    @classmethod
    def from_words(cls, words: Sequence[Word]) -> "DecodedText":
        """Join `words` into the text."""
        return cls(" ".join(word.text for word in words), tuple(words))


class Decoder(Protocol):
    """A function that decodes log-probabilities `(frames, units)`."""

    def __call__(self, log_probs: LogProbs, /) -> DecodedText:
        """Return the text with the times of its words."""


def seconds_at(frame: int, seconds_per_frame: float) -> float:
    """Return the start of `frame` in seconds, rounded to microseconds: 0.7 rather than 0.7000000000000001."""
    return round(frame * seconds_per_frame, 6)


def words_of_path(path: UnitPath, units: Units, seconds_per_frame: float) -> DecodedText:
    """Collapse a CTC path `(frames,)` of units into words: merge repeats, then drop blanks and other specials.

    The text equals that of `Units.decode` for the collapsed path (Graves et al. 2006, section 3.2).
    """
    words: list[Word] = []
    spelling, start, end = "", 0, 0

    def close() -> None:
        nonlocal spelling
        if spelling:
            words.append(Word(spelling, seconds_at(start, seconds_per_frame), seconds_at(end, seconds_per_frame)))
        spelling = ""

    for unit, first, last in _runs(path):
        if unit < len(SPECIALS):
            continue
        for place, part in enumerate(units.symbols[unit].split(units.word_separator)):
            if place > 0:
                close()
            if part:
                start = start if spelling else first
                spelling, end = spelling + part, last
    close()
    return DecodedText.from_words(words)


def _runs(path: UnitPath) -> Iterator[tuple[int, int, int]]:
    """Yield each run of a repeated unit: the unit, its first frame, and the frame after its last."""
    frames = np.asarray(path)
    starts = np.flatnonzero(np.diff(frames, prepend=-1))
    for first, last in pairwise([*starts.tolist(), len(frames)]):
        yield int(frames[first]), first, last
