"""Products of calibrated int8 modules as pairs of quantization and dequantization, which runtimes compute in int8."""

import torch
import torch.ao.quantization.fx._decomposed
from torch import Tensor, nn

from ..nn.device import INT8_MAX
from ..quantization.int8 import Int8Convolution, Int8Linear

LOWEST = -INT8_MAX - 1


class QuantizedProduct(nn.Module):
    """Affine map of an input with calibrated scales, `(..., in)` -> `(..., out)`."""

    def __init__(self, weight: Tensor, weight_scale: Tensor, input_scale: Tensor, zero: Tensor, bias: Tensor | None):
        """Compute with an int8 `weight` `(out, in)`, see `quantization.int8.Int8Module` for the others."""
        super().__init__()
        self.weight = nn.Parameter(weight.t().contiguous(), requires_grad=False)
        self.weight_scale = nn.Parameter(weight_scale, requires_grad=False)
        self.weight_zero = nn.Parameter(torch.zeros(len(weight), dtype=torch.int8), requires_grad=False)
        self.input_factor = nn.Parameter(input_scale.reciprocal(), requires_grad=False)
        self.zero = int(zero)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Quantize `x` to int8, and multiply."""
        operators = torch.ops.quantized_decomposed
        limits = (LOWEST, INT8_MAX, torch.int8)
        integers = operators.quantize_per_tensor(x * self.input_factor, 1.0, self.zero, *limits)
        rows = operators.dequantize_per_tensor(integers, 1.0, self.zero, *limits)
        matrix = operators.dequantize_per_channel(self.weight, self.weight_scale, self.weight_zero, 1, *limits)
        out: Tensor = rows @ matrix
        return out if self.bias is None else out + self.bias


def quantized_linear(module: Int8Linear) -> QuantizedProduct:
    """Return the product of a calibrated linear layer."""
    assert module.input_scale is not None
    assert module.input_zero is not None
    return QuantizedProduct(module.weight, module.weight_scale, module.input_scale, module.input_zero, module.bias)


def quantized_taps(module: Int8Convolution) -> list[QuantizedProduct]:
    """Return the products of a calibrated convolution with the operands of `strided_windows`, in their order."""
    assert module.input_scale is not None
    assert module.input_zero is not None
    products = []
    for index, taps in enumerate(module.weight.split(module.stride, dim=2)):
        matrix = taps.transpose(1, 2).flatten(1)
        scale = module.input_scale.repeat(taps.shape[2])
        bias = module.bias if index == 0 else None
        products.append(QuantizedProduct(matrix, module.weight_scale, scale, module.input_zero, bias))
    return products
