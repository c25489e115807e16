"""Multiply-accumulate counts against those of torch's counter, and the savings that the documentation derives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from w2v_compress.errors import InputError
from w2v_compress.evaluation.compute import count_compute
from w2v_compress.model_file.storage import ModelFile
from w2v_compress.nn.acoustic_model import AcousticModel
from w2v_compress.nn.architecture import Architecture, named_architecture
from w2v_compress.nn.compression import UNCOMPRESSED, CompressionPoint

TEN_SECONDS = 160_000


def torch_counts(architecture: Architecture, samples: int, point: CompressionPoint) -> dict[str, float]:
    """Multiply-accumulates of each module, counted by torch on the meta device."""
    with torch.device("meta"):
        model = AcousticModel(architecture).eval()
        audio = torch.empty(1, samples)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(audio, None, point)
    return {module: sum(counts.values()) / 2 for module, counts in counter.get_flop_counts().items()}


def check(architecture: Architecture, samples: int, point: CompressionPoint) -> None:
    counted, ours = torch_counts(architecture, samples, point), count_compute(architecture, samples, point)
    names = {
        "Global": ours.total,
        "AcousticModel.w2v_model.feature_extractor": ours.extractor,
        "AcousticModel.w2v_model.encoder": ours.encoder,
        "AcousticModel.w2v_model.encoder.pos_conv.0": ours.positional,
        "AcousticModel.proj": ours.head,
    }
    assert {name: counted[name] for name in names} == names
    layers = range(architecture.encoder_layers)
    prefix = "AcousticModel.w2v_model.encoder.layers"
    attention = sum(counted[f"{prefix}.{layer}.self_attn"] for layer in layers)
    assert attention == ours.attention_projections + ours.attention_products
    assert sum(counted[f"{prefix}.{layer}"] for layer in layers) - attention == ours.feed_forward


@pytest.mark.parametrize("samples", [400, 719, 16_000, 33_333])
@pytest.mark.parametrize("point", ["1,1,1", "2,1,1", "3,2,1", "4,1,2", "2,3:1,1:4"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"extractor_mode": "default", "conv_bias": False, "layer_norm_first": False, "conv_pos": 15},
        {"learned_upsampling": (2, 3, 4), "conv_layers": ((16, 10, 5), (32, 8, 4), (16, 1, 1), (32, 4, 4), (32, 4, 4))},
        {"centered_positions": True},
    ],
)
def test_small_networks(
    tiny_model: Callable[..., ModelFile], changes: dict[str, Any], point: str, samples: int
) -> None:
    check(tiny_model(**changes).header.architecture, samples, CompressionPoint.parse(point))


@pytest.mark.parametrize("name", ["base", "large", "sew-small"])
@pytest.mark.parametrize("point", ["1,1,1", "2,1,1", "2,2,2"])
def test_full_networks(name: str, point: str) -> None:
    check(named_architecture(name), TEN_SECONDS, CompressionPoint.parse(point))


def share(point: str) -> float:
    """Encoder compute of base at `point`, relative to (1, 1, 1), on 10 s."""
    base = named_architecture("base")
    counts = (count_compute(base, TEN_SECONDS, each).encoder for each in (CompressionPoint.parse(point), UNCOMPRESSED))
    return next(counts) / next(counts)


def test_compute_falls_as_the_documentation_derives() -> None:
    assert share("2,1,1") <= 0.51
    assert share("2,1,1") == pytest.approx(0.478, abs=5e-4)
    assert share("2,2,2") == pytest.approx(0.388, abs=5e-4)
    assert share("4,1,1") == pytest.approx(0.233, abs=5e-4)


def test_every_factor_reduces_compute() -> None:
    shares = [share(point) for point in ("1,1,1", "1,2,1", "1,2,2", "1,4,4", "2,1,1", "2,2,2", "3,1,1", "4,1,1")]
    assert shares == sorted(set(shares), reverse=True)


def test_audio_too_short_and_points_of_other_depths_are_rejected() -> None:
    with pytest.raises(InputError, match="`samples` is 399; it must be at least 400"):
        count_compute(named_architecture("base"), 399, UNCOMPRESSED)
    with pytest.raises(InputError, match="has 2 factors, but the network has 12 layers"):
        count_compute(named_architecture("base"), 400, CompressionPoint(1, (1, 2), 1))
