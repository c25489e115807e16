"""Long audio in windows that overlap: which ones, and their samples as the audio streams by."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..data.audio import SAMPLE_RATE, AudioArray
from ..errors import AudioError
from ..nn.architecture import Architecture
from ..nn.compression import UNCOMPRESSED, CompressionPoint

CHUNK_SECONDS = 30.0
CONTEXT_SECONDS = 2.0


@dataclass(frozen=True)
class Window:
    """A stretch of audio that the network sees at once, and which of its frames are kept."""

    samples: slice
    kept: slice


def plan_windows(
    architecture: Architecture,
    samples: int,
    chunk_seconds: float = CHUNK_SECONDS,
    point: CompressionPoint = UNCOMPRESSED,
) -> list[Window]:
    """Audio up to `chunk_seconds` long is one window. Longer audio is cut into almost equal ones that overlap.

    Frame k of the whole sees the same samples as the frame of the window that stands for it, and is squeezed and pooled
    with the same frames: windows start at multiples of `pooling_period`. On each side of a seam the network sees
    `CONTEXT_SECONDS` more, whose frames are dropped; the positional convolution reaches less far. What lies further
    away cannot be attended to, and a group norm takes its statistics over the window, so results differ slightly from
    those of a single pass, whose memory and time would grow with the square of the length.
    """
    hop, field = architecture.samples_per_frame, architecture.receptive_field
    frames = architecture.frames(samples)
    if samples <= chunk_seconds * SAMPLE_RATE:
        return [Window(slice(0, samples), slice(0, frames))]
    context = round(CONTEXT_SECONDS * SAMPLE_RATE / hop)
    longest = max(1, int(chunk_seconds * SAMPLE_RATE / hop) - 2 * context)
    period = pooling_period(point, architecture.encoder_layers)
    if period > longest:  # as with 9, 11 and 16 in different layers: only the squeeze can be kept
        period = point.squeeze
    periods = -(-max(1, frames - context) // period)
    count = -(-periods // max(1, longest // period))
    seams = [context + periods * index // count * period for index in range(1, count)]
    windows = []
    for start, end in pairwise([0, *seams, frames]):
        first, last = max(0, start - context), min(frames, end + context)
        windows.append(Window(slice(first * hop, (last - 1) * hop + field), slice(start - first, end - first)))
    return windows


def pooling_period(point: CompressionPoint, layers: int) -> int:
    """Frames after which the groups of all poolings at `point` start together."""
    return math.lcm(*(point.squeeze * factor for factors in point.of_layers(layers) for factor in factors))


def read_windows(blocks: Iterable[AudioArray], windows: Iterable[Window], name: object) -> Iterator[AudioArray]:
    """The samples of each window, out of blocks (samples,); no more than a window and a block are held.

    Windows come in order, each of them beginning before the last one ends. Raises `AudioError` about `name` when the
    blocks end before the windows do.
    """
    stream = iter(blocks)
    held, begin = np.empty(0, np.float32), 0
    for window in windows:
        parts = [held[window.samples.start - begin :]]
        begin = window.samples.start
        end = begin + len(parts[0])
        while end < window.samples.stop:
            block = next(stream, None)
            if block is None:
                raise AudioError(name, "unreadable", "became shorter while it was read")
            parts.append(block)
            end += len(block)
        held = np.concatenate(parts)
        yield held[: window.samples.stop - begin]
