"""Convolutions: gradients of the strided one, and the positional one in bf16 (oneDNN is wrong for narrow groups)."""

import copy

import pytest
import torch

from w2v_compress.nn.convolution import StridedConvolution, WeightNormConvolution


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("kernel", [15, 16, 128])
@pytest.mark.parametrize(("channels", "groups"), [(32, 16), (32, 4), (48, 4), (32, 2)])
@pytest.mark.parametrize("autocast", [False, True])
def test_in_bf16(channels: int, groups: int, kernel: int, stride: int, autocast: bool) -> None:
    torch.manual_seed(0)
    layer, x = WeightNormConvolution(channels, kernel, groups), torch.randn(2, 70, channels, requires_grad=True)
    exact = copy.deepcopy(layer).double()
    expected = exact(x.double(), stride)
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(x, stride)
    else:
        out = layer.bfloat16()(x.bfloat16(), stride)
    assert out.shape == expected.shape
    assert (out.double() - expected).norm() < 0.02 * expected.norm()
    direction = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(expected, x, direction)
    (reduced,) = torch.autograd.grad(out, x, direction.bfloat16())
    assert (reduced - gradient).norm() < 0.02 * gradient.norm()


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (5, 2), (1, 1), (10, 5), (8, 3), (2, 3)])
def test_gradients_of_the_strided_convolution(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    for time in (kernel, 21, 22, 23):
        layer = StridedConvolution(3, 4, kernel, stride, bias=True).double()
        x = torch.randn(2, time, 3, dtype=torch.double, requires_grad=True)
        expected = torch.nn.functional.conv1d(x.transpose(1, 2), layer.weight, layer.bias, stride).transpose(1, 2)
        out = layer(x)
        torch.testing.assert_close(out, expected)
        direction = torch.randn_like(expected)
        inputs = (x, layer.weight, layer.bias)
        torch.testing.assert_close(
            torch.autograd.grad(out, inputs, direction), torch.autograd.grad(expected, inputs, direction)
        )
