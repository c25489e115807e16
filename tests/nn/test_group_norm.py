"""Precision of the group norm folded into the first convolution, on audio and filters with cancellation."""

import dataclasses
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from w2v_compress.nn.architecture import Architecture
from w2v_compress.nn.feature_extractor import FeatureExtractor

ONE_LAYER = Architecture(conv_layers=((64, 10, 5),))
RATE = 16_000
Filters = Literal["random", "band-pass", "high-pass"]


def filters(kind: Filters) -> Tensor:
    """Return convolution weights `(channels, 1, kernel)`."""
    generator = torch.Generator().manual_seed(0)
    if kind == "random":
        return torch.randn(64, 1, 10, generator=generator)
    frequencies, taps = torch.linspace(0.02, 0.48, 64), torch.arange(10.0)
    weight = torch.cos(2 * torch.pi * frequencies[:, None] * taps) * torch.hann_window(12, periodic=False)[1:-1]
    weight -= weight.mean(1, keepdim=True)
    if kind == "high-pass":  # first differences, which suppress low frequencies further
        weight = torch.cat([weight[:, 1:] - weight[:, :-1], torch.zeros(64, 1)], 1)
    return weight.unsqueeze(1)


def audio(kind: str, seconds: float) -> Tensor:
    """Return audio `(1, samples)`: noise with the envelope of speech, in variants that occur in recordings."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(0).normal(size=len(time))
    speech = np.convolve(noise, np.hanning(40) / 20, "same") * 0.2 * np.abs(np.sin(3 * time)) + 1e-3 * noise
    hum = 0.3 * np.sin(2 * np.pi * 50 * time)
    made = {
        "speech": speech,
        "speech and hum": speech + hum,
        "hum": hum,
        "offset": speech + 0.5,
        "quiet": 1e-3 * speech,
        "quiet and hum": 1e-2 * speech + hum,
        "clipped": np.clip(20 * speech, -1, 1),
    }
    return torch.from_numpy(made[kind].astype(np.float32))[None]


def extractor(kind: Filters) -> FeatureExtractor:
    network = FeatureExtractor(ONE_LAYER)
    network.load_state_dict(network.state_dict() | {"conv_layers.0.0.weight": filters(kind)})
    return network.eval()


def direct(x: Tensor, weight: Tensor) -> Tensor:
    """Compute the layer as stock fairseq does: `(1, samples)` -> `(1, frames, channels)`."""
    return F.gelu(F.group_norm(F.conv1d(x.unsqueeze(1), weight, stride=5), 64)).transpose(1, 2)


def rms(error: Tensor) -> float:
    return error.detach().square().mean().sqrt().item()


KINDS = ["speech", "speech and hum", "hum", "offset", "quiet", "quiet and hum", "clipped"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", ["random", "band-pass", "high-pass"])
@pytest.mark.parametrize("seconds", [1, 20])
@pytest.mark.parametrize("trained", [True, False], ids=["training", "inference"])
def test_the_folded_norm_is_as_precise_as_the_direct_one(
    kind: str, weight: Filters, seconds: float, trained: bool
) -> None:
    x = audio(kind, seconds)
    exact = direct(x.double(), filters(weight).double())
    with torch.set_grad_enabled(trained):
        ours = extractor(weight)(x, None)
    assert rms(ours - exact) < 2 * rms(direct(x, filters(weight)) - exact)


def test_padding_does_not_reduce_precision() -> None:
    x = audio("quiet and hum", 5)
    padded = F.pad(x, (0, RATE))
    exact = direct(x.double(), filters("high-pass").double())
    ours = extractor("high-pass")(torch.cat([padded, padded]), torch.tensor([x.shape[1]] * 2))
    for row in ours:
        assert rms(row[: exact.shape[1]] - exact[0]) < 2 * rms(direct(x, filters("high-pass")) - exact)


def test_gradients_equal_those_of_the_direct_norm() -> None:
    x, weight = audio("speech and hum", 1), filters("band-pass")
    network = extractor("band-pass")
    target = torch.randn(1, *direct(x, weight).shape[1:], generator=torch.Generator().manual_seed(1))
    (network(x, None) * target).sum().backward()
    plain = weight.double().requires_grad_()
    (direct(x.double(), plain) * target).sum().backward()
    found = network.conv_layers[0].get_parameter("0.weight").grad
    assert plain.grad is not None
    assert found is not None
    assert rms(found - plain.grad) < 1e-5 * rms(plain.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_thirty_seconds_under_autocast(dtype: torch.dtype) -> None:
    """With `common.amp`, a sum of squares over 30 s of audio overflows fp16."""
    x = 20 * audio("speech", 30)  # about unit variance, as with `task.normalize`
    with torch.autocast("cpu", dtype):
        ours = extractor("random")(x, None)
    exact = direct(x.double(), filters("random").double())
    assert rms(ours.double() - exact) < (2e-3 if dtype == torch.float16 else 2e-2)


def test_features_of_silence_are_zero() -> None:
    network = FeatureExtractor(dataclasses.replace(ONE_LAYER, conv_bias=True))
    features = network(torch.zeros(1, RATE), None)
    assert torch.equal(features, torch.zeros_like(features))
