"""Group segments into batches of similar lengths, so that little of a batch is padding."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from ..data.audio import SAMPLE_RATE
from .stream import Segment

LOOK_AHEAD_BATCHES = 4
LOOK_AHEAD_SECONDS = 300.0
MAX_PADDING = 0.2
"""Largest share of a batch that may be padding."""


def look_ahead(segments: Iterable[Segment | None], batch_size: int) -> Iterator[list[Segment]]:
    """Yield groups of segments to form batches from: up to four batches, and little more than five minutes of audio.

    `None`, which stands for a rejected recording, counts as a segment, so that an input of rejected recordings still
    yields groups.
    """
    group: list[Segment] = []
    count, samples = 0, 0
    for segment in segments:
        count += 1
        if segment is not None:
            group.append(segment)
            samples += len(segment.samples)
        if count == LOOK_AHEAD_BATCHES * batch_size or samples >= LOOK_AHEAD_SECONDS * SAMPLE_RATE:
            yield group
            group, count, samples = [], 0, 0
    if count:
        yield group


def read_ahead(groups: Iterable[list[Segment]]) -> Iterator[list[Segment]]:
    """Yield `groups`, reading the next one in a thread while the caller computes on this one.

    Groups are read by one thread at a time. When the caller stops early, the group being read is finished first.
    """
    iterator = iter(groups)
    with ThreadPoolExecutor(1, thread_name_prefix="audio") as reader:
        following = reader.submit(next, iterator, None)
        while (group := following.result()) is not None:
            following = reader.submit(next, iterator, None)
            yield group


def batches(segments: Iterable[Segment], batch_size: int, batch_seconds: float | None) -> Iterator[list[Segment]]:
    """Yield batches of up to `batch_size` segments and up to `batch_seconds` including padding, longest segments first.

    At most `MAX_PADDING` of a batch is padding. A segment longer than `batch_seconds` forms a batch of its own. For an
    engine without padding, whose `batch_seconds` is None, all segments form one batch.
    """
    longest_first = sorted(segments, key=lambda segment: len(segment.samples), reverse=True)
    if batch_seconds is None:
        if longest_first:
            yield longest_first
        return
    batch: list[Segment] = []
    samples = 0
    for segment in longest_first:
        if batch:
            padded = (len(batch) + 1) * len(batch[0].samples)
            full = len(batch) == batch_size or padded > batch_seconds * SAMPLE_RATE
            if full or samples + len(segment.samples) < (1 - MAX_PADDING) * padded:
                yield batch
                batch, samples = [], 0
        batch.append(segment)
        samples += len(segment.samples)
    if batch:
        yield batch
