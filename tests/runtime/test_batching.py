"""Batches have bounded sizes and little padding, and contain every segment once."""

import threading
from collections.abc import Iterator
from itertools import chain, islice

import numpy as np
import pytest

from w2v_compress.runtime.batching import batches, look_ahead, read_ahead
from w2v_compress.runtime.stream import Recording, Segment
from w2v_compress.runtime.windows import Window


def segments(*seconds: float) -> list[Segment]:
    lengths = [round(16_000 * length) for length in seconds]
    return [
        Segment(np.zeros(length, np.float32), Window(slice(0, length), slice(0, 1)), 0, Recording())
        for length in lengths
    ]


@pytest.mark.parametrize(("batch_size", "batch_seconds"), [(1, 30.0), (8, 30.0), (8, float("inf")), (64, 100.0)])
def test_batches_are_bounded_and_padded_little(batch_size: int, batch_seconds: float) -> None:
    group = segments(*np.random.default_rng(0).uniform(0.1, 40.0, 200))
    made = list(batches(group, batch_size, batch_seconds))
    assert sorted(map(id, chain(*made))) == sorted(map(id, group))
    for batch in made:
        lengths = [len(segment.samples) for segment in batch]
        padded = max(lengths) * len(batch)
        assert len(batch) <= batch_size
        assert padded <= batch_seconds * 16_000 or len(batch) == 1
        assert sum(lengths) >= 0.8 * padded
    assert len(made) >= 200 / batch_size
    if batch_seconds > 100:
        assert len(made) < 1.5 * 200 / batch_size


def test_windows_of_long_audio_and_short_audio_share_batches() -> None:
    group = segments(10, 2, 9.9, 2.1, 10, 10)
    made = [[len(segment.samples) / 16_000 for segment in batch] for batch in batches(group, 4, 40.0)]
    assert made == [[10, 10, 10, 9.9], [2.1, 2]]


def test_looks_ahead_by_count_and_by_length() -> None:
    taken = []

    def stream(*items: Segment | None) -> object:
        for item in items:
            taken.append(item)
            yield item

    assert [len(group) for group in look_ahead(stream(*segments(*[1.0] * 20)), 2)] == [8, 8, 4]
    taken.clear()
    groups = look_ahead(stream(*segments(*[30.0] * 1_000)), 64)
    assert [len(group) for group in islice(groups, 3)] == [10, 10, 10]
    assert len(taken) == 30
    assert list(look_ahead([None] * 5, 1)) == [[], []]
    assert list(look_ahead([], 1)) == []


def test_an_engine_without_padding_gets_all_segments_longest_first() -> None:
    (batch,) = batches(segments(1.0, 30.0, 2.0), 2, None)
    assert [len(segment.samples) for segment in batch] == [480_000, 32_000, 16_000]
    assert list(batches([], 2, None)) == []


def test_the_next_group_is_read_while_the_caller_computes() -> None:
    read = [threading.Event() for _ in range(3)]

    def groups() -> Iterator[list[Segment]]:
        for event in read:
            event.set()
            yield []

    for index, _ in enumerate(read_ahead(groups())):
        assert all(event.wait(10) for event in read[: index + 2])
    assert list(read_ahead([])) == []


def test_an_error_while_reading_reaches_the_caller() -> None:
    def groups() -> Iterator[list[Segment]]:
        yield []
        raise OSError("no more")

    reader = read_ahead(groups())
    assert next(reader) == []
    with pytest.raises(OSError, match="no more"):
        next(reader)
