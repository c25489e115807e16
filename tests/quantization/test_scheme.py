"""Quantization schemes: parts, the error of a quantized network, state dicts and validation."""

import dataclasses
from typing import Any

import pytest
import torch

from w2v_compress.errors import InputError
from w2v_compress.nn.acoustic_model import AcousticModel
from w2v_compress.nn.architecture import ARCHITECTURES, Architecture
from w2v_compress.nn.compression import CompressionPoint
from w2v_compress.quantization import scheme
from w2v_compress.quantization.parts import quantizable_parts

ARCHITECTURE = Architecture(
    conv_layers=((64, 10, 5), (64, 3, 2), (64, 2, 2)),
    encoder_layers=2,
    encoder_embed_dim=96,
    encoder_ffn_embed_dim=192,
    encoder_attention_heads=4,
    conv_pos=16,
    conv_pos_groups=4,
)
LEARNED = dataclasses.replace(ARCHITECTURE, learned_upsampling=(2, 4))
PARTS = ["extractor.1", "extractor.2", "projection", "positional", "layers.0", "layers.1", "head"]


def quantized_model(model: AcousticModel, quantization: dict[str, Any]) -> AcousticModel:
    state = model.state_dict()
    small = AcousticModel(model.architecture)
    scheme.apply(small, quantization)
    small.load_state_dict(scheme.quantize_state_dict(model.architecture, state.keys(), state.__getitem__, quantization))
    return small.eval()


def floating_matrices(model: AcousticModel) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if tensor.dim() > 1 and tensor.is_floating_point()}


def test_parts_are_in_order_from_input_to_output():
    assert list(quantizable_parts(ARCHITECTURE, "full")) == PARTS
    assert list(quantizable_parts(ARCHITECTURE, "paper")) == ["projection", "layers.0", "layers.1", "head"]
    learned = quantizable_parts(LEARNED, "full")
    assert set(learned) == {*PARTS, "upsampling.2", "upsampling.4"}
    assert learned["upsampling.4"] == ["w2v_model.encoder.upsampling.4"]
    calibrated = quantizable_parts(ARCHITECTURE, "full", calibrated=True)
    assert set(calibrated) == {*PARTS, "attention.0", "attention.1"}
    assert calibrated["attention.1"] == ["w2v_model.encoder.layers.1.self_attn.products"]


@torch.no_grad()
@pytest.mark.parametrize("name", ["full", "paper", "int8"])
@pytest.mark.parametrize("mode", ["default", "layer_norm"])
def test_logit_error_is_small_and_all_matrices_of_the_scheme_are_int8(name: str, mode: Any):
    torch.manual_seed(1)
    model = AcousticModel(Architecture.from_dict(ARCHITECTURE.to_dict() | {"extractor_mode": mode})).eval()
    audio = torch.randn(2, 16000)
    lengths = torch.tensor([16000, 9000])
    expected, frames = model(audio, lengths)
    small = quantized_model(model, {"scheme": name})
    logits, small_frames = small(audio, lengths)
    assert torch.equal(frames, small_frames)
    error = (logits - expected)[0]
    assert 0 < error.square().mean().sqrt() < 0.02 * expected[0].std() + 0.01
    first = {"w2v_model.feature_extractor.conv_layers.0.0.weight"}
    if name == "paper":
        first |= {f"w2v_model.feature_extractor.conv_layers.{index}.0.weight" for index in (1, 2)}
        first |= {f"w2v_model.encoder.pos_conv.0.{kind}" for kind in ("weight_g", "weight_v")}
    assert floating_matrices(small) == first


@torch.no_grad()
@pytest.mark.parametrize("mode", ["default", "layer_norm"])
def test_logits_in_a_batch_equal_those_of_single_utterances(mode: Any):
    torch.manual_seed(1)
    model = AcousticModel(Architecture.from_dict(ARCHITECTURE.to_dict() | {"extractor_mode": mode})).eval()
    small = quantized_model(model, {"scheme": "full"})
    audio = torch.randn(2, 16000)
    audio[1] *= 0.01  # a scale shared with the loud utterance would leave it no precision
    audio[1, 7000:] = 0
    logits, frames = small(audio, torch.tensor([16000, 7000]))
    alone, _ = small(audio[1:, :7000])
    torch.testing.assert_close(logits[1, : frames[1]], alone[0], atol=1e-2, rtol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("point", ["1,1,1", "2,1,1", "3,1,1", "4,1,1", "2,2,2", "4,2:1,1:3"])
@pytest.mark.parametrize("learned", [False, True])
def test_logit_error_is_small_and_independent_of_the_batch_at_every_point(point: str, learned: bool):
    torch.manual_seed(1)
    model = AcousticModel(LEARNED if learned else ARCHITECTURE).eval()
    small = quantized_model(model, {"scheme": "full"})
    audio = torch.randn(2, 16000)
    audio[1] *= 0.01
    audio[1, 7000:] = 0
    lengths, at = torch.tensor([16000, 7000]), CompressionPoint.parse(point)
    if learned and at.squeeze == 3:
        with pytest.raises(InputError, match="learned to upsample for a squeeze of 2, 4"):
            small(audio, lengths, at)
        return
    expected, _ = model(audio, lengths, at)
    logits, frames = small(audio, lengths, at)
    error = (logits - expected)[0]
    assert 0 < error.square().mean().sqrt() < 0.02 * expected[0].std() + 0.01
    alone, _ = small(audio[1:, :7000], None, at)
    torch.testing.assert_close(logits[1, : frames[1]], alone[0], atol=1e-2, rtol=1e-2)


@torch.no_grad()
def test_kept_parts_are_unchanged():
    torch.manual_seed(1)
    model = AcousticModel(ARCHITECTURE).eval()
    small = quantized_model(model, {"scheme": "full", "keep": ["layers.1", "positional"]})
    state, kept = model.state_dict(), small.state_dict()
    for name in floating_matrices(small):
        assert torch.equal(kept[name], state[name])
    assert {name.split(".")[3] for name in floating_matrices(small) if "encoder.layers" in name} == {"1"}
    assert "w2v_model.encoder.pos_conv.0.weight_v" in kept
    everything = quantized_model(model, {"scheme": "full", "keep": PARTS})
    audio = torch.randn(1, 8000)
    assert torch.equal(everything(audio)[0], model(audio)[0])


@torch.no_grad()
@pytest.mark.parametrize("quantization", [{"scheme": "full", "keep": ["head"]}, {"scheme": "paper"}])
def test_dequantized_weights_equal_int8_times_scale(quantization: dict[str, Any]):
    model = AcousticModel(LEARNED)
    state = model.state_dict()
    small = scheme.quantize_state_dict(LEARNED, state.keys(), state.__getitem__, quantization)
    wide = AcousticModel(LEARNED)
    wide.load_state_dict(scheme.dequantized_state(small))
    for name, tensor in small.items():
        if tensor.dtype == torch.int8:
            module = wide.get_submodule(name.removesuffix(".weight"))
            weight = module.effective_weight() if hasattr(module, "effective_weight") else module.weight
            scale = small[f"{name}_scale"].view(-1, *[1] * (tensor.ndim - 1))
            torch.testing.assert_close(weight, tensor * scale)
        elif not name.endswith("_scale"):
            assert torch.equal(wide.state_dict()[name], tensor)


@pytest.mark.parametrize(("name", "ratio"), [("paper", 3.55), ("full", 3.9)])
def test_compression_ratio_of_large(name: str, ratio: float):
    """Sizes are counted on the meta device, plus 60 kB for the header of the file."""

    def size(model: AcousticModel) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())

    with torch.device("meta"):
        model = AcousticModel(ARCHITECTURES["large"])
        before = size(model)
        scheme.apply(model, {"scheme": name})
    assert before / (size(model) + 60_000) >= ratio


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"scheme": "int3"}, "`scheme` is 'int3'; it must be one of full, paper"),
        ({"scheme": ["full"]}, "`scheme` is"),
        ({}, "`scheme` is ''"),
        ({"scheme": "full", "bits": 4}, "unknown field `bits`"),
        ({"scheme": "full", "keep": "head"}, "`keep` is 'head'; it must be a list"),
        ({"scheme": "full", "keep": [1]}, "must be a list of names"),
        ({"scheme": "full", "keep": ["layers.2"]}, "`keep` names 'layers.2'; it must be one of extractor.1, "),
        ({"scheme": "paper", "keep": ["positional"]}, "must be one of projection, layers.0, layers.1, head"),
    ],
)
def test_an_invalid_quantization_raises_an_error_with_the_field(quantization: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        scheme.apply(AcousticModel(ARCHITECTURE), quantization)
