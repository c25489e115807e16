import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile


@pytest.fixture
def speech() -> Callable[..., np.ndarray]:
    """Return speech(seconds, rate=16000, channels=1), which makes noise (samples,) or (samples, channels)."""

    def make(seconds: float, rate: int = 16_000, channels: int = 1) -> np.ndarray:
        samples = 0.1 * np.random.default_rng(0).standard_normal((round(seconds * rate), channels))
        return (samples[:, 0] if channels == 1 else samples).astype(np.float32)

    return make


@pytest.fixture
def encoded(speech) -> Callable[..., bytes]:
    """Return encoded(kind), which makes the bytes of a 3 s file: wav, flac, ogg, opus, aiff or mp3."""

    def make(kind: str) -> bytes:
        file = io.BytesIO()
        formats = {"opus": ("OGG", "OPUS"), "ogg": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III")}
        container, subtype = formats.get(kind, (kind.upper(), "PCM_16"))
        soundfile.write(file, speech(3.0), 16_000, format=container, subtype=subtype)
        return file.getvalue()

    return make


@pytest.fixture
def corpus(tmp_path: Path, speech) -> Callable[..., Path]:
    """Return corpus(*rows), which makes a folder with `utterances.csv` of (path, text, split) and `good.wav`."""

    def make(*rows: tuple[str, str, str]) -> Path:
        folder = tmp_path / "corpus"
        folder.mkdir(exist_ok=True)
        soundfile.write(folder / "good.wav", speech(1.0), 16_000)
        with (folder / "utterances.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "text", "split"), *rows])
        return folder

    return make
