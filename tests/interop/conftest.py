"""Networks small enough for the slow converters of other runtimes, and comparisons with `Recognizer`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from w2v_compress.model_file.storage import ModelFile, read_model, write_model
from w2v_compress.nn.compression import CompressionPoint, CompressionSpace
from w2v_compress.runtime.recognizer import Recognizer

BASE_LIKE = {"extractor_mode": "default", "conv_bias": False, "layer_norm_first": False}
CONV_LAYERS = ((16, 10, 5), (16, 3, 2), (16, 2, 2))


@pytest.fixture
def small_path(tmp_path: Path, tiny_model: Callable[..., ModelFile]) -> Callable[..., Path]:
    """small_path(like, normalize, point, **changes) writes an elastic model file like "base" or "large".

    Its default compression point is `point`.
    """

    def write(like: Literal["base", "large"], *, normalize: bool = True, point: str = "1,1,1", **changes: Any) -> Path:
        path = tmp_path / "small.safetensors"
        changes = {"conv_layers": CONV_LAYERS, "encoder_layers": 1, **(BASE_LIKE if like == "base" else {}), **changes}
        model = tiny_model(**changes)
        squeeze = (1, *model.header.architecture.learned_upsampling) if "learned_upsampling" in changes else (1, 2, 3)
        header = dataclasses.replace(
            model.header,
            normalize=normalize,
            space=CompressionSpace(squeeze=squeeze),
            point=CompressionPoint.parse(point),
        )
        write_model(path, dataclasses.replace(model, header=header))
        return path

    return write


@pytest.fixture
def utterances() -> list[np.ndarray]:
    """Noise (samples,) of several lengths, the last one of a single frame."""
    generator = np.random.default_rng(3)
    return [(0.3 * generator.normal(size=size) + 0.05).astype(np.float32) for size in (7001, 4444, 30)]


@pytest.fixture
def largest_difference(utterances: list[np.ndarray]) -> Callable[..., float]:
    """largest_difference(model, point, run) compares log-probabilities with those of `Recognizer`.

    run(audio, lengths) returns logits and valid frames. The audio is each utterance alone, then a padded batch.
    """

    def measure(model: Path, point: str, run: Callable[..., Any]) -> float:
        recognizer = Recognizer.load(model, precision="fp32")
        expected = [recognizer.emissions(audio, 16_000, point=point) for audio in utterances]
        lengths = np.array([len(audio) for audio in utterances])
        padded = np.zeros((len(utterances), lengths.max()), dtype=np.float32)
        for row, audio in zip(padded, utterances, strict=True):
            row[: len(audio)] = audio
        results = [run(audio[None], lengths[index : index + 1]) for index, audio in enumerate(utterances)]
        rows = [(logits[0], frames[0]) for logits, frames in results]
        rows += zip(*run(padded, lengths), strict=True)
        differences = []
        for (logits, frames), reference in zip(rows, expected * 2, strict=True):
            assert frames == len(reference)
            logits = logits[:frames].astype(np.float64)
            log_probs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
            differences.append(np.abs(log_probs - logits.max(-1, keepdims=True) - reference).max())
        return float(max(differences))

    return measure


@pytest.fixture
def error_on_long_audio() -> Callable[..., float]:
    """error_on_long_audio(model, run) returns the RMS error of the logits relative to the same network in fp64.

    The audio is 20 s of noise at full scale with an offset. A group norm computes its statistics over all of it.
    """

    def measure(model: Path, run: Callable[..., Any]) -> float:
        noise = np.random.default_rng(0).normal(size=20 * 16_000)
        audio = np.clip(noise, -1, 1).astype(np.float32)[None] + np.float32(0.5)
        network = read_model(model).build().double()
        with torch.inference_mode():
            exact = network(torch.from_numpy(audio).double())[0].numpy()
        logits, _ = run(audio, np.array([audio.shape[1]]))
        return float(np.sqrt(np.mean((logits - exact) ** 2) / np.mean(exact**2)))

    return measure
