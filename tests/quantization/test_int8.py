"""int8 modules against the floating-point ones they stand for, and the error that they may make."""

import pytest
import torch

from w2v_compress.errors import InputError
from w2v_compress.nn import AcousticModel, Architecture
from w2v_compress.quantization import int8

ARCHITECTURE = Architecture(
    conv_layers=((64, 10, 5), (64, 3, 2), (64, 2, 2)),
    encoder_layers=2,
    encoder_embed_dim=96,
    encoder_ffn_embed_dim=192,
    encoder_attention_heads=4,
    conv_pos=16,
    conv_pos_groups=4,
)


def quantized_model(state: dict[str, torch.Tensor]) -> AcousticModel:
    model = AcousticModel(ARCHITECTURE)
    int8.apply(model, {"scheme": "int8"})
    model.load_state_dict(int8.quantize_state(ARCHITECTURE, state), strict=True)
    return model.eval()


def test_weights_are_within_half_a_step_of_the_original():
    torch.manual_seed(1)
    weight = torch.randn(7, 5, 3) * torch.logspace(-3, 3, 7).view(7, 1, 1)
    weight[4] = 0
    integers, scale = int8.quantize_weight(weight)
    assert integers.dtype == torch.int8
    assert integers.abs().amax(dim=(1, 2)).tolist() == [127] * 4 + [0] + [127] * 2
    error = (int8.dequantize_weight(integers, scale) - weight).abs()
    assert (error <= 0.501 * scale.view(7, 1, 1)).all()


@pytest.mark.parametrize("bias", [True, False])
def test_linear_equals_the_product_of_its_rounded_operands(bias):
    """Against float64: the integer product itself must be exact."""
    torch.manual_seed(1)
    linear = torch.nn.Linear(64, 48, bias=bias)
    x = torch.randn(3, 11, 64) * torch.logspace(-2, 2, 11).view(1, 11, 1)
    x[1] = x[1].abs()  # as after ReLU: all steps above 0
    x[2, 4] = 0
    module = int8.Int8Linear(linear)
    integers, scale = int8.quantize_weight(linear.weight.detach())
    state = {"weight": integers, "weight_scale": scale} | ({"bias": linear.bias.detach()} if bias else {})
    module.load_state_dict(state)
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    step = (high - low).clamp(min=1e-30) / 255
    rounded = (x / step).round().double() * step.double()
    assert (rounded - x).abs().max() <= 0.51 * step.max()
    expected = rounded @ int8.dequantize_weight(integers, scale).double().T
    if bias:
        expected = expected + linear.bias.double()
    tolerance = 0.02 * step.double() + 1e-5  # a value at either end may be rounded into the range
    assert ((module(x).double() - expected).abs() <= tolerance + 1e-5 * expected.abs()).all()


@torch.no_grad()
def test_network_stays_close_and_every_large_matrix_is_int8():
    torch.manual_seed(1)
    model = AcousticModel(ARCHITECTURE).eval()
    audio = torch.randn(2, 16000)
    lengths = torch.tensor([16000, 9000])
    expected, frames = model(audio, lengths)
    small = quantized_model(model.state_dict())
    logits, small_frames = small(audio, lengths)
    assert torch.equal(frames, small_frames)
    error = (logits - expected)[0]
    assert 0 < error.square().mean().sqrt() < 0.02 * expected[0].std() + 0.01
    floating = {name for name, tensor in small.state_dict().items() if tensor.dim() > 1 and tensor.is_floating_point()}
    assert floating == {"w2v_model.feature_extractor.conv_layers.0.0.weight"}


@torch.no_grad()
def test_a_batch_gives_each_utterance_what_it_gets_alone():
    torch.manual_seed(1)
    model = quantized_model(AcousticModel(ARCHITECTURE).state_dict())
    audio = torch.randn(2, 16000)
    audio[1, 7000:] = 0
    logits, frames = model(audio, torch.tensor([16000, 7000]))
    alone, _ = model(audio[1:, :7000])
    torch.testing.assert_close(logits[1, : frames[1]], alone[0], atol=1e-2, rtol=1e-2)


def test_unknown_scheme_is_named():
    with pytest.raises(InputError, match="`scheme` is 'int3'; it must be 'int8'"):
        int8.apply(AcousticModel(ARCHITECTURE), {"scheme": "int3"})
