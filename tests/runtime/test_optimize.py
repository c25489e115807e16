"""What `prepare` puts in place gives what the network gave, everywhere that a recognizer runs it."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v_compress.nn import AcousticModel, Architecture, CompressionPoint
from w2v_compress.nn.attention import SelfAttention
from w2v_compress.nn.convolution import StridedConvolution, WeightNormConvolution
from w2v_compress.quantization import scheme
from w2v_compress.runtime import optimize as inference
from w2v_compress.runtime.optimize import prepare

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


@pytest.fixture(params=["packed", "as torch has it"])
def packing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways, the second as on a processor that oneDNN has no packed products for."""
    if request.param != "packed":
        monkeypatch.setattr(inference, "_can_pack", lambda _dtype: False)
    return inference.can_pack(torch.zeros(1))


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
def test_logits_stay(changes: dict[str, object], point: str, packing: bool) -> None:
    model = network(**changes)
    audio, lengths = batch()
    at = CompressionPoint.parse(point)
    expected, frames = model(audio, lengths, at)
    alone, _ = model(audio[1:2, :2100], None, at)
    one_frame, _ = model(audio[:1, :60], None, at)
    assert one_frame.shape[1] == 1
    prepare(model)
    kinds = {type(module) for module in model.modules()}
    assert WeightNormConvolution not in kinds
    assert (nn.Linear in kinds) != packing
    for index, count in enumerate(frames.tolist()):
        torch.testing.assert_close(
            model(audio, lengths, at)[0][index, :count], expected[index, :count], atol=2e-5, rtol=0
        )
    torch.testing.assert_close(model(audio[1:2, :2100], None, at)[0], alone, atol=2e-5, rtol=0)
    torch.testing.assert_close(model(audio[:1, :60], None, at)[0], one_frame, atol=2e-5, rtol=0)


@torch.inference_mode()
def test_bf16_errs_no_more_than_before() -> None:
    model = network()
    audio, _ = batch()
    exact = model(audio)[0]
    model = model.to(torch.bfloat16)
    before = model(audio.bfloat16())[0].float()
    prepare(model)
    after = model(audio.bfloat16())[0].float()
    assert (after - exact).norm() <= 1.5 * (before - exact).norm()


@pytest.mark.parametrize("point", POINTS)
@torch.inference_mode()
def test_int8_stays_to_the_bit(point: str) -> None:
    """Queries, keys and values of one quantization are those of three."""
    model = network()
    parts = scheme.parts(model, "full")
    modules = [name for names in parts.values() for name in names]
    audio, lengths = batch()
    at = CompressionPoint.parse(point)
    with scheme.quantized(model, modules):
        prepared = copy.deepcopy(model)
        expected = model(audio, lengths, at)[0]
    for module in prepared.modules():
        if isinstance(module, SelfAttention):
            inference.join_projections(module)
            assert module.joint is not None
    assert torch.equal(prepared(audio, lengths, at)[0], expected)


@pytest.mark.parametrize("scores_at_once", [1, 3 * 7, 2 * 12 * 9, 10**6], ids=["one", "few", "heads", "all"])
@torch.inference_mode()
def test_attention_by_plain_products(scores_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many heads and queries it takes at once, it is torch's own attention but for bf16's rounding."""
    monkeypatch.setattr(inference, "SCORES_AT_ONCE", scores_at_once)
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(3, 4, frames, 8, generator=generator) for frames in (12, 9, 9))
    lengths = torch.tensor([9, 4, 1])
    seen = (torch.arange(9) < lengths.unsqueeze(1))[:, None, None, :]
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
    given = inference.attend_in_bfloat16(query, key, value, lengths)
    assert given.dtype == torch.float32
    assert (given - expected).abs().max() < 0.03
    whole = inference.attend_in_bfloat16(query, key, value, None)
    assert (whole - F.scaled_dot_product_attention(query, key, value)).abs().max() < 0.03
    assert torch.equal(inference.attend_in_bfloat16(query[1:2], key[1:2], value[1:2], lengths[1:2]), given[1:2])


@pytest.mark.parametrize("units", [torch.bfloat16, torch.float32])
def test_attention_is_exact_in_fp32_and_without_units_for_bf16(
    units: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "half_precision", lambda _device: units)
    for dtype in (torch.float32, torch.bfloat16):
        model = network().to(dtype)
        prepare(model)
        attends = [module.attend for module in model.modules() if isinstance(module, SelfAttention)]
        assert all((attend is not None) == (dtype == units == torch.bfloat16) for attend in attends)


@torch.inference_mode()
def test_projections_that_differ_in_kind_stay_apart() -> None:
    model = network()
    audio, lengths = batch()
    with scheme.quantized(model, ["w2v_model.encoder.layers.0.self_attn.k_proj"]):
        expected = model(audio, lengths)[0]
        prepare(model)
        first, second = (layer.self_attn for layer in model.w2v_model.encoder.layers)
        assert first.joint is None
        assert second.joint is not None
        torch.testing.assert_close(model(audio, lengths)[0], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["gelu", "relu"])
@torch.inference_mode()
def test_activations_are_worked_out_with_the_product_before_them(name: str, packing: bool) -> None:
    """Of the feed-forward block, and of convolutions without a norm, all but the first."""
    model = network(activation_fn=name)
    prepare(model)
    layer = model.w2v_model.encoder.layers[0]
    first, *others = model.w2v_model.feature_extractor.conv_layers
    assert first.activation is F.gelu
    assert all(isinstance(each.activation, nn.Identity) == packing for each in (layer, *others))
    if packing:
        assert layer.fc1.activation == name
    normed = network(extractor_mode="layer_norm")
    prepare(normed)
    assert all(each.activation is F.gelu for each in normed.w2v_model.feature_extractor.conv_layers)


def test_the_first_convolution_keeps_its_weight() -> None:
    """The group norm rescales it for each utterance."""
    model = network()
    prepare(model)
    kept = [name for name, module in model.named_modules() if isinstance(module, StridedConvolution)]
    assert "w2v_model.feature_extractor.conv_layers.0.0" in kept


def test_a_product_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operators are private to torch: if one changed its meaning, the network would run without."""
    monkeypatch.setattr(inference.PackedLinear, "forward", lambda _self, x: x.new_zeros(*x.shape[:-1], 16))
    inference._can_pack.cache_clear()
    assert not inference.can_pack(torch.zeros(1))
    inference._can_pack.cache_clear()
