"""Turn audio into normalized windows for the network, and join their log-probabilities recording by recording."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Union

import numpy as np

from ..data.audio import SAMPLE_RATE, AudioArray, AudioSource, open_audio
from ..data.normalization import Moments
from ..errors import AudioError, InputError
from ..model_file.header import Header
from ..nn.compression import CompressionPoint
from .decoding.words import LogProbs
from .windows import Window, plan_windows, read_windows

if TYPE_CHECKING:
    from torch import Tensor

Audio = Union[str, Path, bytes, BinaryIO, np.ndarray, "Tensor"]
"""A file by its path, its bytes or a binary file object; or an array of samples."""


@dataclass(eq=False)
class Recording:
    """One input, whose log-probabilities arrive window by window, or the error that rejected it."""

    name: object = ""
    """Name of the recording in error messages."""
    samples: int = 0
    """Length at 16 kHz."""
    log_probs: LogProbs = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """Log-probabilities, `(frames, units)`; frames that have not arrived yet are undefined."""
    missing_frames: int = 1
    """Number of frames that have not arrived yet; positive while the length is unknown."""
    compute_seconds: float = 0.0
    """Seconds spent computing `log_probs`."""
    error: InputError | None = None

    def allocate(self, name: object, samples: int, frames: int, units: int) -> None:
        """Set the name and the length, and allocate the log-probabilities."""
        self.name, self.samples, self.missing_frames = name, samples, frames
        self.log_probs = np.empty((frames, units), np.float32)

    @property
    def done(self) -> bool:
        """Whether all frames have arrived or the recording was rejected."""
        return self.error is not None or self.missing_frames == 0


@dataclass(frozen=True, eq=False)
class Segment:
    """The samples of one window of a recording, ready for the network."""

    samples: AudioArray
    """Waveform, `(samples,)`."""
    window: Window
    first_frame: int
    """Index in the recording of the first frame that is kept."""
    recording: Recording

    def store(self, log_probs: LogProbs, compute_seconds: float) -> None:
        """Copy the kept rows of the window's `log_probs` (frames, units) into the recording.

        If any of them is not finite, no text can be decoded, so the recording gets an error.
        """
        kept = log_probs[self.window.kept]
        if not np.isfinite(kept).all():
            self.recording.error = InputError(
                f"{self.recording.name}: the network's output is not finite (NaN or infinite): "
                "its weights are damaged or too large for this precision (fp32 has the largest range)"
            )
        self.recording.log_probs[self.first_frame : self.first_frame + len(kept)] = kept
        self.recording.missing_frames -= len(kept)
        self.recording.compute_seconds += compute_seconds


class AudioStream:
    """Iterate once over the segments of all recordings, in order; `None` stands for a recording that was rejected.

    Store the network's output in each segment, then take the joined recordings from `completed`. Recordings are read
    as the iteration asks for segments. One longer than `chunk_seconds` is read twice and never held in memory: first
    to find its length, its level and its faults, then for its windows.
    """

    def __init__(
        self,
        audio: Iterable[Audio],
        rate: int | None,
        header: Header,
        point: CompressionPoint,
        *,
        chunk_seconds: float,
        on_resampling: Callable[[str], None],
    ) -> None:
        """Stream `audio` for the model described by `header`, which runs at `point`.

        Args:
            audio: files, or arrays at `rate` Hz
            rate: sampling rate of arrays; None for files, which state their own
            header: gives the frame rate, the number of units and whether audio is normalized
            point: the compression point, to whose pooling the windows are aligned
            chunk_seconds: the longest window, see `plan_windows`
            on_resampling: called with a message for each recording that is not at 16 kHz
        """
        self._audio = audio
        self._rate = rate
        self._header = header
        self._point = point
        self._chunk_seconds = chunk_seconds
        self._on_resampling = on_resampling
        self._pending: deque[Recording] = deque()

    def __iter__(self) -> Iterator[Segment | None]:
        for item in self._audio:
            recording = Recording()
            self._pending.append(recording)
            try:
                yield from self._segments(item, recording)
            except InputError as error:
                recording.error = error
                yield None

    def completed(self) -> Iterator[Recording]:
        """Yield finished recordings in input order, up to the first one that is not finished."""
        while self._pending and self._pending[0].done:
            yield self._pending.popleft()

    def _segments(self, audio: Audio, recording: Recording) -> Iterator[Segment]:
        source = open_audio(_on_cpu(audio), self._rate)
        if source.rate != SAMPLE_RATE:
            self._on_resampling(
                f"{source.name}: is at {source.rate:g} Hz; audio that is not at {SAMPLE_RATE} Hz is resampled"
            )
        moments, blocks = self._measure(source)
        architecture = self._header.architecture
        frames = architecture.frames(moments.count)
        if frames == 0:
            length, shortest = (
                1000 * samples / SAMPLE_RATE for samples in (moments.count, architecture.receptive_field)
            )
            detail = f"too short: {length:.0f} ms; it must be at least {shortest:.0f} ms"
            raise AudioError(source.name, "too short", detail)
        recording.allocate(source.name, moments.count, frames, architecture.num_units)
        windows = plan_windows(architecture, moments.count, self._chunk_seconds, self._point)
        first_frame = 0
        for window, samples in zip(windows, read_windows(blocks, windows, source.name), strict=True):
            scaled = moments.normalize(samples) if self._header.normalize else samples
            yield Segment(scaled, window, first_frame, recording)
            first_frame += window.kept.stop - window.kept.start

    def _measure(self, source: AudioSource) -> tuple[Moments, Iterable[AudioArray]]:
        """Return length and level of `source`, and its blocks: those just read or, if it is long, to be read again."""
        moments = Moments()
        blocks: list[AudioArray] = []
        for block in source.blocks():
            moments.add(block)
            blocks.append(block)
            if moments.count > self._chunk_seconds * SAMPLE_RATE:
                blocks.clear()
        return moments, blocks or source.blocks()


def _on_cpu(audio: Audio) -> Audio:
    """Return a tensor of torch without its gradient and on the CPU, and anything else as it is. Imports no torch."""
    torch = sys.modules.get("torch")
    return audio.detach().cpu() if torch is not None and isinstance(audio, torch.Tensor) else audio
