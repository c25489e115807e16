"""The stream cuts recordings into segments and joins the network's output in input order."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from w2v_compress.data.audio import SAMPLE_RATE
from w2v_compress.model_file.storage import ModelFile
from w2v_compress.nn.compression import CompressionPoint
from w2v_compress.runtime.stream import AudioStream, Segment

UNITS = 32


@pytest.fixture
def stream(tiny_model: Callable[..., ModelFile]) -> Callable[..., tuple[AudioStream, list[str]]]:
    """stream(audio, rate) gives a stream with windows of at most 6 seconds, and its list of resampling messages."""

    def make(audio: list[object], rate: int | None = None) -> tuple[AudioStream, list[str]]:
        messages: list[str] = []
        header, point = tiny_model().header, CompressionPoint()
        made = AudioStream(audio, rate, header, point, chunk_seconds=6.0, on_resampling=messages.append)  # type: ignore[arg-type]
        return made, messages

    return make


def store_frame_numbers(segment: Segment) -> None:
    """Store in each frame its number in the recording."""
    first = segment.first_frame - segment.window.kept.start
    numbers = np.arange(first, first + segment.window.kept.stop + 100, dtype=np.float32)
    segment.store(np.repeat(numbers[:, None], UNITS, 1), 0.5)


def test_segments_in_any_order_are_joined_in_input_order(
    stream: Callable[..., tuple[AudioStream, list[str]]], wav: Callable[..., Path]
) -> None:
    seconds = (1.0, 20.0, 2.0)
    audio, _ = stream([wav(f"{length}.wav", length) for length in seconds])
    segments = [segment for segment in audio if segment is not None]
    assert len(segments) > 6
    assert all(len(segment.samples) <= 6.1 * SAMPLE_RATE for segment in segments)
    for segment in reversed(segments[1:]):
        store_frame_numbers(segment)
    assert list(audio.completed()) == []
    store_frame_numbers(segments[0])
    recordings = list(audio.completed())
    assert [recording.samples for recording in recordings] == [round(SAMPLE_RATE * length) for length in seconds]
    for recording, count in zip(recordings, (1, len(segments) - 2, 1), strict=True):
        frames = np.arange(len(recording.log_probs), dtype=np.float32)
        np.testing.assert_array_equal(recording.log_probs, np.repeat(frames[:, None], UNITS, 1))
        assert recording.compute_seconds == 0.5 * count
    assert list(audio.completed()) == []


def test_windows_are_normalized_with_the_statistics_of_the_recording(
    stream: Callable[..., tuple[AudioStream, list[str]]],
) -> None:
    samples = np.random.default_rng(0).normal(2.0, 0.1, 20 * SAMPLE_RATE).astype(np.float32)
    samples[: 3 * SAMPLE_RATE] *= 0.1
    audio, _ = stream([samples], SAMPLE_RATE)
    wide = samples.astype(np.float64)
    expected = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5)
    for segment in audio:
        assert segment is not None
        np.testing.assert_allclose(segment.samples, expected[segment.window.samples], atol=1e-5)


def test_rejected_recordings_are_none_and_resampled_ones_are_announced(
    stream: Callable[..., tuple[AudioStream, list[str]]],
) -> None:
    audio, messages = stream([np.ones(8_000), np.ones(10), np.full(8_000, np.nan)], 8_000)
    segments = list(audio)
    assert [segment is None for segment in segments] == [False, True, True]
    assert messages == ["audio array: is at 8000 Hz; audio that is not at 16000 Hz is resampled"] * 3
    assert isinstance(segments[0], Segment)
    store_frame_numbers(segments[0])
    errors = [str(recording.error) for recording in audio.completed()]
    assert errors[0] == "None"
    assert "too short: 1 ms; it must be at least 25 ms" in errors[1]
    assert "not finite" in errors[2]
