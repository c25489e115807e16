"""Plan overlapping windows over long audio, and read their samples from a stream of blocks."""

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
"""Default length of the longest window."""
CONTEXT_SECONDS = 2.0
"""Context on each side of a seam between windows, whose frames are dropped."""


@dataclass(frozen=True)
class Window:
    """One pass of the network over a part of the audio."""

    samples: slice
    """Samples of the audio that the network receives."""
    kept: slice
    """Frames of the window's output that go into the result; the rest are context."""


def plan_windows(
    architecture: Architecture,
    samples: int,
    chunk_seconds: float = CHUNK_SECONDS,
    point: CompressionPoint = UNCOMPRESSED,
) -> list[Window]:
    """Plan the windows for audio of `samples` samples: one up to `chunk_seconds`, else several of almost equal length.

    A kept frame has the same receptive field, squeezing and pooling groups as in a single pass, because windows start
    at multiples of `pooling_period`. On each side of a seam the network gets `CONTEXT_SECONDS` of context, whose
    frames are dropped; the positional convolution reaches less far. Attention does not reach beyond the window, and a
    group norm takes its statistics over the window, so results differ slightly from those of a single pass, whose
    memory and time would grow with the square of the length.
    """
    hop, field = architecture.samples_per_frame, architecture.receptive_field
    frames = architecture.frames(samples)
    if samples <= chunk_seconds * SAMPLE_RATE:
        return [Window(slice(0, samples), slice(0, frames))]
    context = round(CONTEXT_SECONDS * SAMPLE_RATE / hop)
    longest = max(1, int(chunk_seconds * SAMPLE_RATE / hop) - 2 * context)
    period = pooling_period(point, architecture.encoder_layers)
    if period > longest:  # for example 9, 11 and 16 in different layers: align to the squeeze only
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
    """Return the number of frames after which the groups of all pooling factors of `point` start together."""
    return math.lcm(*(point.squeeze * factor for factors in point.pools_per_layer(layers) for factor in factors))


def read_windows(blocks: Iterable[AudioArray], windows: Iterable[Window], name: object) -> Iterator[AudioArray]:
    """Yield the samples of each window from `blocks` (samples,); at most a window and a block are held in memory.

    Windows must come in order, each beginning before the previous one ends. Raises `AudioError` that names the audio
    `name` if the blocks end before the last window does.
    """
    stream = iter(blocks)
    buffer, start = np.empty(0, np.float32), 0
    for window in windows:
        parts = [buffer[window.samples.start - start :]]
        start = window.samples.start
        end = start + len(parts[0])
        while end < window.samples.stop:
            block = next(stream, None)
            if block is None:
                raise AudioError(name, "unreadable", "became shorter while it was read")
            parts.append(block)
            end += len(block)
        buffer = np.concatenate(parts)
        yield buffer[: window.samples.stop - start]
