"""An optimized network computes what it computed before, with fewer operators."""

import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from w2v_compress.nn import AcousticModel, Architecture, CompressionPoint
from w2v_compress.quantization import scheme
from w2v_compress.runtime import optimize
from w2v_compress.runtime.optimize import bfloat16_attention, optimize_for_inference

POINTS = ("1,1,1", "2,1,2", "3,2,1", "4,2,2")


def network(**changes: object) -> AcousticModel:
    torch.manual_seed(3)
    conv_layers = ((24, 10, 5), (32, 3, 2), (32, 3, 2), (32, 2, 2))
    shape = {"encoder_embed_dim": 48, "encoder_ffn_embed_dim": 96, "encoder_layers": 2, "encoder_attention_heads": 4}
    architecture = Architecture(conv_layers=conv_layers, conv_pos=8, conv_pos_groups=4, num_units=7, **shape)
    model = AcousticModel(dataclasses.replace(architecture, **changes))
    return model.eval().requires_grad_(False)


def batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.tensor([3000, 2100, 500])
    audio = torch.randn(3, 3000, generator=generator)
    return (audio * (torch.arange(3000) < lengths.unsqueeze(1))).to(dtype), lengths


class OperatorCount(TorchDispatchMode):
    """Counts the torch operators that run inside, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def operators(model: AcousticModel, point: str = "1,1,1") -> Counter[str]:
    """The number of times that one pass of `model` runs each operator."""
    audio, _ = batch(next(model.parameters()).dtype)
    with OperatorCount() as counter, torch.inference_mode():
        model(audio[:1, :1600], None, CompressionPoint.parse(point))
    return counter.count


PRODUCTS = ("_linear_pointwise", "linear", "_int_mm")


def products(count: Counter[str]) -> int:
    return sum(count[name] for name in PRODUCTS)


@pytest.fixture(params=["packed", "unpacked"])
def packing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether weights are packed: once as the machine can, once as on a CPU without packed products."""
    if request.param == "unpacked":
        monkeypatch.setattr(optimize, "packing_works", lambda _dtype: False)
    return optimize.can_pack(torch.zeros(1))


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True},
        {"learned_upsampling": (2, 3, 4)},
        {"activation_fn": "relu"},
    ],
)
@torch.inference_mode()
def test_logits_are_unchanged(changes: dict[str, object], point: str, packing: bool) -> None:
    model = network(**changes)
    audio, lengths = batch()
    at = CompressionPoint.parse(point)
    expected, frames = model(audio, lengths, at)
    alone, _ = model(audio[1:2, :2100], None, at)
    one_frame, _ = model(audio[:1, :60], None, at)
    assert one_frame.shape[1] == 1
    optimize_for_inference(model)
    count = operators(model, point)
    assert count["_weight_norm_interface"] == 0
    assert (count["_linear_pointwise"] > 0) == packing
    assert (count["linear"] > 1) != packing  # the first convolution is one
    for index, count in enumerate(frames.tolist()):
        torch.testing.assert_close(
            model(audio, lengths, at)[0][index, :count], expected[index, :count], atol=2e-5, rtol=0
        )
    torch.testing.assert_close(model(audio[1:2, :2100], None, at)[0], alone, atol=2e-5, rtol=0)
    torch.testing.assert_close(model(audio[:1, :60], None, at)[0], one_frame, atol=2e-5, rtol=0)


@torch.inference_mode()
def test_bf16_error_does_not_grow() -> None:
    model = network()
    audio, _ = batch()
    exact = model(audio)[0]
    model = model.to(torch.bfloat16)
    before = model(audio.bfloat16())[0].float()
    optimize_for_inference(model)
    after = model(audio.bfloat16())[0].float()
    assert (after - exact).norm() <= 1.5 * (before - exact).norm()


@pytest.mark.parametrize("point", POINTS)
@torch.inference_mode()
def test_int8_logits_are_unchanged(point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused int8 projections give the same integers as three, from one quantization of their input."""
    monkeypatch.setattr(optimize, "half_precision", lambda _device: torch.float32)
    model = network()
    parts = scheme.quantizable_parts(model, "full")
    modules = [name for names in parts.values() for name in names]
    audio, lengths = batch()
    at = CompressionPoint.parse(point)
    with scheme.temporarily_quantized(model, modules):
        expected, before = model(audio, lengths, at)[0], operators(model, point)
        optimize_for_inference(model)
        assert torch.equal(model(audio, lengths, at)[0], expected)
        after = operators(model, point)
    # Of two layers: three products become one, or two if queries and keys are pooled differently.
    saved = 4 if at.query_pool == at.key_value_pool else 2
    assert products(after) == products(before) - saved


@pytest.mark.parametrize("max_scores", [1, 3 * 7, 2 * 12 * 9, 10**6], ids=["one", "few", "heads", "all"])
@torch.inference_mode()
def test_bfloat16_attention_equals_that_of_torch(max_scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of heads and queries computed at a time changes nothing but the rounding in bf16."""
    monkeypatch.setattr(optimize, "MAX_SCORES", max_scores)
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(3, 4, frames, 8, generator=generator) for frames in (12, 9, 9))
    lengths = torch.tensor([9, 4, 1])
    mask = (torch.arange(9) < lengths.unsqueeze(1))[:, None, None, :]
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    given = bfloat16_attention(query, key, value, lengths)
    assert given.dtype == torch.float32
    assert (given - expected).abs().max() < 0.03
    unmasked = bfloat16_attention(query, key, value, None)
    assert (unmasked - F.scaled_dot_product_attention(query, key, value)).abs().max() < 0.03
    assert torch.equal(bfloat16_attention(query[1:2], key[1:2], value[1:2], lengths[1:2]), given[1:2])


@pytest.mark.parametrize("fastest", [torch.bfloat16, torch.float32])
def test_bfloat16_attention_runs_only_in_bf16_and_with_bf16_units(
    fastest: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimize, "half_precision", lambda _device: fastest)
    for dtype in (torch.float32, torch.bfloat16):
        model = network().to(dtype)
        optimize_for_inference(model)
        softmaxes = operators(model)["softmax"]  # torch's own attention has the softmax inside
        assert softmaxes == (2 if dtype == fastest == torch.bfloat16 else 0)


@torch.inference_mode()
def test_only_projections_of_one_type_are_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimize, "packing_works", lambda _dtype: False)
    audio, lengths = batch()
    for int8, saved in (([], 4), (["w2v_model.encoder.layers.0.self_attn.k_proj"], 2)):
        model = network()
        with scheme.temporarily_quantized(model, int8):
            expected, before = model(audio, lengths)[0], products(operators(model))
            optimize_for_inference(model)
            torch.testing.assert_close(model(audio, lengths)[0], expected, atol=2e-5, rtol=0)
            assert products(operators(model)) == before - saved


@pytest.mark.parametrize("name", ["gelu", "relu"])
def test_activations_are_fused_into_packed_products(name: str, packing: bool) -> None:
    """The activations of feed-forward blocks and of convolutions without a norm, except the first, are fused."""
    model = network(activation_fn=name)
    before = operators(model)
    optimize_for_inference(model)
    after = operators(model)
    assert before["gelu"] + before["relu"] == 4 + 1 + 2  # extractor, positional convolution, feed-forward blocks
    if packing:
        assert (after["gelu"], after["relu"]) == (2, 0)
    else:
        assert (after["gelu"], after["relu"]) == (before["gelu"], before["relu"])
    normed = network(extractor_mode="layer_norm")
    before = operators(normed)
    optimize_for_inference(normed)
    assert operators(normed)["gelu"] == before["gelu"] - 2 * packing


def test_incorrect_packed_products_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch may change its private operators; then the network runs without them."""
    monkeypatch.setattr(optimize.PackedLinear, "forward", lambda _self, x: x.new_zeros(*x.shape[:-1], 16))
    optimize.packing_works.cache_clear()
    assert not optimize.can_pack(torch.zeros(1))
    optimize.packing_works.cache_clear()
