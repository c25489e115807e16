"""Quantization error of int8 modules against their floating-point counterparts."""

import pytest
import torch
from torch import Tensor, nn

from w2v_compress.nn.convolution import StridedConvolution, WeightNormConvolution
from w2v_compress.quantization import int8


@pytest.fixture(params=["units", "no units"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Select integer products or dequantized weights; skip integer products on CPUs without int8 units."""
    if request.param == "units" and not int8.has_int8_units():
        pytest.skip("this processor has no int8 units")
    monkeypatch.setattr(int8, "has_int8_units", lambda: request.param == "units")
    return str(request.param)


def filled(module: nn.Module, weight: Tensor) -> int8.Int8Module:
    """Return the int8 counterpart of `module` with its bias and the quantized `weight`, without weight norm."""
    substitute = int8.int8_module(module)
    assert substitute is not None
    integers, scale = int8.quantize_weight(weight.detach())
    bias = {} if module.bias is None else {"bias": module.bias.detach()}
    substitute.load_state_dict({"weight": integers, "weight_scale": scale} | bias)
    return substitute


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def test_weight_error_is_at_most_half_a_step():
    torch.manual_seed(1)
    weight = torch.randn(7, 5, 3) * torch.logspace(-3, 3, 7).view(7, 1, 1)
    weight[4] = 0
    integers, scale = int8.quantize_weight(weight)
    assert integers.dtype == torch.int8
    assert integers.abs().amax(dim=(1, 2)).tolist() == [127] * 4 + [0] + [127] * 2
    error = (int8.dequantize_weight(integers, scale) - weight).abs()
    assert (error <= 0.501 * scale.view(7, 1, 1)).all()


@pytest.mark.parametrize("shift", [-30.0, -1.0, 0.0, 1.0, 30.0])
def test_activation_error_is_at_most_half_a_step_and_zero_is_exact(shift: float):
    torch.manual_seed(1)
    x = torch.randn(2000, 16) + shift
    x[:, 0] = 0
    x[7] = 0
    integers, scale, zero = int8.quantize_activations(x)
    restored = (integers - zero) * scale
    assert ((restored - x).abs() <= 0.502 * scale).all()
    assert (restored[:, 0] == 0).all()


@pytest.mark.parametrize("bias", [True, False])
def test_linear_equals_the_product_of_its_rounded_operands(bias: bool, processor: str):
    """Against a product in float64, because the integer product must be exact."""
    torch.manual_seed(1)
    linear = nn.Linear(64, 48, bias=bias)
    x = torch.randn(3, 11, 64) * torch.logspace(-2, 2, 11).view(1, 11, 1)
    x[1] = x[1].abs()  # all values positive, as after ReLU
    x[2, 4] = 0
    module = filled(linear, linear.weight)
    integers, scale = int8.quantize_weight(linear.weight.detach())
    rounded = x.double()
    if processor == "units":
        steps, step, zero = int8.quantize_activations(x)
        rounded = (steps.double() - zero) * step
    expected = rounded @ int8.dequantize_weight(integers, scale).double().T
    if bias:
        expected = expected + linear.bias.double()
    torch.testing.assert_close(module(x).double(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (5, 2), (3, 3), (2, 3)])
def test_convolution_error(kernel: int, stride: int, processor: str):
    torch.manual_seed(1)
    convolution = StridedConvolution(16, 24, kernel, stride, bias=True)
    module = filled(convolution, convolution.weight)
    x = torch.randn(2, 50, 16)
    expected = convolution(x)
    assert 0 < relative_error(module(x), expected) < 0.02
    torch.testing.assert_close(module(x)[1], module(x[1:])[0])


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel", [16, 7])
def test_positional_convolution_error(kernel: int, stride: int, processor: str):
    """At the stride of each squeeze factor; 25 frames are a multiple of stride 1 only."""
    torch.manual_seed(1)
    convolution = WeightNormConvolution(32, kernel, 4)
    module = filled(convolution, convolution.effective_weight())
    x = torch.randn(2, 40, 32) * torch.tensor([1.0, 50.0]).view(2, 1, 1)
    x[0, 25:] = 0  # padding
    expected, found = convolution(x, stride), module(x, stride)
    assert 0 < relative_error(found[0], expected[0]) < 0.02
    alone = module(x[:1, :25], stride)[0]
    torch.testing.assert_close(found[0, : len(alone)], alone)
    for frames in range(1, 6):
        short = torch.randn(1, frames, 32)
        assert relative_error(module(short, stride), convolution(short, stride)) < 0.03


def test_the_output_does_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch):
    linear = nn.Linear(16, 8)
    module = filled(linear, linear.weight)
    x = torch.randn(1, 100, 16)
    whole = module(x)
    monkeypatch.setattr(int8, "CHUNK_ROWS", 7)
    torch.testing.assert_close(module(x), whole)


def test_the_output_has_the_dtype_of_the_input(processor: str):
    linear = nn.Linear(16, 8)
    module = filled(linear, linear.weight)
    x = torch.randn(1, 5, 16)
    narrow = module(x.bfloat16())
    assert narrow.dtype == torch.bfloat16
    assert relative_error(narrow.float(), module(x)) < 0.02
