"""Files of any length: streamed in bounded memory, batched with others, damaged in the middle."""

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from w2v_compress.data import audio
from w2v_compress.data.audio import read_audio
from w2v_compress.errors import InputError
from w2v_compress.model_file.storage import ModelFile
from w2v_compress.runtime.engines.torch_engine import TorchEngine
from w2v_compress.runtime.recognizer import Recognizer, Transcript

Wav = Callable[..., Path]


@pytest.fixture
def recognizer(tiny_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch) -> Recognizer:
    """A recognizer with windows of at most 6 seconds, which reads half a second at a time."""
    monkeypatch.setattr(audio, "BLOCK_VALUES", 8_000)
    model = tiny_model()
    return Recognizer(TorchEngine(model.build()), model.header, chunk_seconds=6.0)


@pytest.mark.filterwarnings("ignore:.* is resampled")
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2)])
def test_a_long_file_gives_what_its_samples_give(
    recognizer: Recognizer, tmp_path: Path, rate: int, channels: int
) -> None:
    path = tmp_path / "long.flac"
    noise = 0.1 * np.random.default_rng(0).normal(size=(14 * rate, channels)) + 0.05
    soundfile.write(path, noise, rate)
    samples = read_audio(path)
    expected = recognizer.emissions(samples, 16_000)
    np.testing.assert_allclose(recognizer.emissions(path), expected, rtol=0, atol=1e-4)
    # Normalization uses the statistics of the complete file, not of each window.
    scaled = (samples - samples.mean(dtype=np.float64)) / samples.std(dtype=np.float64)
    np.testing.assert_allclose(recognizer.emissions(scaled, 16_000), expected, rtol=0, atol=1e-2)
    (result,) = recognizer.recognize([path])
    assert isinstance(result, Transcript)
    assert result.audio_seconds == len(samples) / 16_000
    assert len(result.log_probs) == recognizer.header.architecture.frames(len(samples))


def test_results_come_in_order_and_as_alone(recognizer: Recognizer, wav: Wav, tmp_path: Path) -> None:
    seconds = (0.5, 13.0, 2.0, 7.0, 0.02, 5.9, 21.0, 1.0)
    paths = [wav(f"{index}.wav", length, seed=index) for index, length in enumerate(seconds)]
    paths.insert(3, tmp_path / "absent.wav")
    alone = [next(recognizer.recognize([path])) for path in paths]
    assert [isinstance(result, InputError) for result in alone] == [index in (3, 5) for index in range(9)]
    for batch_size in (1, 2, 8):
        results = list(recognizer.recognize(paths, batch_size=batch_size))
        for result, expected in zip(results, alone, strict=True):
            assert type(result) is type(expected)
            if isinstance(result, Transcript) and isinstance(expected, Transcript):
                assert result.text == expected.text
                np.testing.assert_allclose(result.log_probs, expected.log_probs, rtol=0, atol=1e-4)
                assert result.compute_seconds > 0
            else:
                assert str(result) == str(expected)


def test_a_file_damaged_in_the_middle_is_reported_and_the_others_go_on(
    recognizer: Recognizer, wav: Wav, tmp_path: Path
) -> None:
    good = wav("good.wav", 8.0)
    samples, _ = soundfile.read(wav("long.wav", 40.0), dtype="float32")
    flac = tmp_path / "damaged.flac"
    soundfile.write(flac, samples, 16_000)
    content = bytearray(flac.read_bytes())
    content[len(content) // 2] ^= 0xFF
    flac.write_bytes(content)
    samples[320_000] = np.inf
    soundfile.write(tmp_path / "infinite.wav", samples, 16_000, subtype="FLOAT")
    results = list(recognizer.recognize([good, flac, tmp_path / "infinite.wav", good], batch_size=2))
    assert isinstance(results[0], Transcript)
    assert str(results[1]).startswith(f"{flac}: is damaged")
    assert str(results[2]).startswith(f"{tmp_path / 'infinite.wav'}: ")
    assert "not finite" in str(results[2])
    assert isinstance(results[3], Transcript)
    assert results[3].text == results[0].text


def test_a_file_that_shrinks_while_it_is_read_is_reported(recognizer: Recognizer, wav: Wav) -> None:
    """The error occurs only in the second pass over the file, after some of its windows were computed."""
    short, long = wav("short.wav", 1.0), wav("long.wav", 60.0)
    results = recognizer.recognize([short, long, short], batch_size=1)
    first = next(results)  # computed together with three windows of the long file
    with long.open("r+b") as file:
        file.truncate(1_000_000)
    second, third = results
    assert isinstance(first, Transcript)
    assert isinstance(second, InputError)
    assert str(long) in str(second)
    assert isinstance(third, Transcript)
    assert third.text == first.text


def test_reads_no_further_ahead_than_ten_minutes(recognizer: Recognizer) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        generator = np.random.default_rng(0)
        while True:
            taken += 1
            yield generator.normal(size=16_000 * 50).astype(np.float32)

    results = recognizer.recognize(endless(), 16_000, batch_size=64)
    assert taken == 0
    assert isinstance(next(results), Transcript)
    results.close()  # type: ignore[attr-defined]  # waits for the thread that reads
    assert taken <= 12


def test_rejected_audio_alone_does_not_delay_results(recognizer: Recognizer, tmp_path: Path) -> None:
    def endless() -> Iterator[Path]:
        while True:
            yield tmp_path / "absent.wav"

    results = recognizer.recognize(endless(), batch_size=2)
    assert [isinstance(next(results), InputError) for _ in range(20)] == [True] * 20


def test_resampling_warns_once(recognizer: Recognizer, tmp_path: Path, wav: Wav) -> None:
    paths = [wav("good.wav", 0.5)]
    for index, rate in enumerate((8_000, 44_100, 8_000)):
        paths.append(tmp_path / f"{index}.wav")
        soundfile.write(paths[-1], 0.1 * np.random.default_rng(0).normal(size=rate), rate)
    with pytest.warns(UserWarning, match="0.wav: is at 8000 Hz; audio that is not at 16000 Hz is resampled") as caught:
        assert len(list(recognizer.recognize(paths))) == 4
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recognizer.transcribe(paths)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.array([np.nan] * 8_000), "not finite"),
        (np.zeros((2, 2, 8_000), np.float32), "its shape"),
        (np.zeros((8_000, 100), np.float32), "100 channels"),
        (np.zeros(8_000, np.complex64), "its type is complex64"),
        (np.zeros(0, np.float32), "no samples"),
        (torch.zeros(8_000, dtype=torch.bfloat16), "cannot be read as an array"),
        (torch.zeros(8_000, dtype=torch.bool), "its type is bool"),
        (torch.zeros(()), "its shape"),
        (None, "its shape"),
    ],
)
def test_bad_arrays_cost_one_line_and_no_other(recognizer: Recognizer, samples: object, message: str) -> None:
    good = np.random.default_rng(0).normal(size=8_000)
    first, bad, last = recognizer.recognize([good, samples, good], 16_000)  # type: ignore[list-item]
    assert isinstance(first, Transcript)
    assert isinstance(last, Transcript)
    assert message in str(bad)
    assert "\n" not in str(bad)
    assert isinstance(bad, InputError)


def test_memory_does_not_grow_with_length(tiny_path: Path, tmp_path: Path) -> None:
    """20 minutes take less additional memory than their samples; log-probabilities and look-ahead take 27 MB."""
    program = """
import sys
import w2v_compress
from w2v_compress.evaluation.machine import peak_memory

recognizer = w2v_compress.load(sys.argv[1], precision="fp32")
(result,) = recognizer.recognize([sys.argv[2]])
print(len(result.log_probs), peak_memory())
"""
    peaks = []
    for seconds in (60, 1_200):
        path = tmp_path / f"{seconds}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(0).normal(size=16_000 * seconds), 16_000)
        command = [sys.executable, "-c", program, str(tiny_path), str(path)]
        frames, peak = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        assert frames == 50 * seconds - 1
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 4 * 16_000 * 1_200
