"""What the network takes at once: pieces of audio looked at ahead, sorted by length and padded little."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..data.audio import SAMPLE_RATE, AudioArray
from ..errors import InputError
from .windows import Window

LOOK_AHEAD_BATCHES = 4
LOOK_AHEAD_SECONDS = 300.0
MOST_PADDING = 0.2
"""Share of a batch that may be padding."""


@dataclass(eq=False)
class Assembly:
    """The log-probabilities of one audio, put together of those of its windows, or the reason why there are none."""

    name: object = ""
    """What errors call the audio."""
    samples: int = 0
    """Of the whole, at 16 kHz."""
    log_probs: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    """(frames, units)"""
    missing: int = 1
    """Frames still to come; more than 0 before anything is known."""
    seconds: float = 0.0
    """Of computing."""
    error: InputError | None = None

    def begin(self, name: object, samples: int, frames: int, units: int) -> None:
        """Make room for the frames of audio of `samples` samples."""
        self.name, self.samples, self.missing = name, samples, frames
        self.log_probs = torch.empty(frames, units)

    @property
    def complete(self) -> bool:
        """Whether there is nothing to wait for."""
        return self.error is not None or self.missing == 0


@dataclass(frozen=True, eq=False)
class Piece:
    """One window of audio on its way through the network."""

    samples: AudioArray
    """(samples,)"""
    window: Window
    first_frame: int
    """Of the whole audio, of those that are kept."""
    whole: Assembly

    def put(self, log_probs: Tensor, seconds: float) -> None:
        """Take the window's log-probabilities (frames, units), and the `seconds` that they took.

        Where they are not finite, no text can be read from them: the whole then has an error.
        """
        kept = log_probs[self.window.kept]
        if not kept.isfinite().all():
            self.whole.error = InputError(
                f"{self.whole.name}: the network's output is not finite (NaN or infinite): "
                "its weights are damaged, or too large for this precision (fp32 holds most)"
            )
        self.whole.log_probs[self.first_frame : self.first_frame + len(kept)] = kept
        self.whole.missing -= len(kept)
        self.whole.seconds += seconds


def look_ahead(pieces: Iterable[Piece | None], batch_size: int) -> Iterator[list[Piece]]:
    """Groups of pieces to make batches of: up to four batches, and not much more than five minutes of audio.

    None stands for audio of which nothing, or nothing more, can be used; it takes a place, so that it is not waited for
    without end.
    """
    group: list[Piece] = []
    places, samples = 0, 0
    for piece in pieces:
        places += 1
        if piece is not None:
            group.append(piece)
            samples += len(piece.samples)
        if places == LOOK_AHEAD_BATCHES * batch_size or samples >= LOOK_AHEAD_SECONDS * SAMPLE_RATE:
            yield group
            group, places, samples = [], 0, 0
    if places:
        yield group


def batches(pieces: Iterable[Piece], batch_size: int, batch_seconds: float) -> Iterator[list[Piece]]:
    """Batches of up to `batch_size` pieces and, padding counted, `batch_seconds`, longest first.

    At most `MOST_PADDING` of a batch is padding. A piece longer than `batch_seconds` is a batch of its own.
    """
    batch: list[Piece] = []
    samples = 0
    for piece in sorted(pieces, key=lambda piece: len(piece.samples), reverse=True):
        if batch:
            padded = (len(batch) + 1) * len(batch[0].samples)
            full = len(batch) == batch_size or padded > batch_seconds * SAMPLE_RATE
            if full or samples + len(piece.samples) < (1 - MOST_PADDING) * padded:
                yield batch
                batch, samples = [], 0
        batch.append(piece)
        samples += len(piece.samples)
    if batch:
        yield batch
