"""int8 weights, one scale an output channel, in every matrix of the network but the first convolution.

"Shrinking Bigfoot" (Peng et al. 2021, section 3) quantizes the Linear layers. Here the convolutions are stored in
int8 too, which makes the file as small as int8 can. What runs as an integer product is the Linear layers, with a
dynamic scale and zero point for each frame of their input; in the convolutions, quantizing the long input costs more
than its product saves, so they widen their weight and compute in floating point. The first convolution (10 numbers a
channel, which the group norm rescales for each utterance), norms and biases are not quantized.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..nn import AcousticModel, Architecture
from ..nn.encoder import WeightNormConvolution
from ..nn.feature_extractor import StridedConvolution

SCHEME = "int8"
LARGEST = 127  # symmetric: without -128, a weight and its negative are equally exact
TINY = torch.finfo(torch.float32).tiny  # keeps the scale of an all-zero row from being zero


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, ...) float -> int8 of the same shape and scales (out,), so that weight ~ int8 * scale."""
    scale = weight.flatten(1).abs().amax(1).clamp(min=TINY) / LARGEST
    return (weight / _over_channels(scale, weight)).round().to(torch.int8), scale


def dequantize_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """The inverse of `quantize_weight`, in the precision of `scale`."""
    return weight.to(scale.dtype) * _over_channels(scale, weight)


def _over_channels(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.dim() - 1))


class Int8Linear(nn.Module):
    """`nn.Linear` with an int8 weight: (..., in) -> (..., out), by an int8 x int8 -> int32 product.

    Each row of the input gets its own scale and zero point, from its smallest and largest value: a loud frame costs
    a quiet one no precision, a batch gives each utterance what it gets alone, and what GELU gives, which is hardly
    ever negative, uses all 256 steps.
    """

    weight_sums: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = _integers_like(linear.weight)  # (out, in)
        self.weight_scale = _scales_like(linear.weight)
        self.bias = linear.bias
        self.register_buffer("weight_sums", torch.zeros_like(linear.weight[:, 0]), persistent=False)  # (out,)
        self.register_load_state_dict_post_hook(Int8Linear._sum_weights)

    def _sum_weights(self, _incompatible: object) -> None:
        self.weight_sums = self.weight.sum(1, dtype=torch.int32).to(self.weight_scale.dtype)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).float()
        low, high = rows.aminmax(dim=1, keepdim=True)
        low, high = low.clamp(max=0), high.clamp(min=0)  # 0 is always a step
        scale = (high - low).clamp(min=TINY) / 255
        zero = (-128 - low / scale).round_()
        integers = (rows / scale).round_().add_(zero).clamp_(-128, 127).to(torch.int8)
        # The zero point adds zero * (sum of the weights) to each product.
        product = torch.addr(torch._int_mm(integers, self.weight.t()).float(), -zero.squeeze(1), self.weight_sums)
        out = product.mul_(scale)
        out = out * self.weight_scale if self.bias is None else torch.addcmul(self.bias, out, self.weight_scale)
        return out.view(*x.shape[:-1], -1).to(x.dtype)


class Int8Convolution(StridedConvolution):
    """`StridedConvolution` that keeps its weight in int8."""

    def __init__(self, convolution: StridedConvolution) -> None:
        nn.Module.__init__(self)  # not the parent's, which would make weights
        self.kernel, self.stride = convolution.kernel, convolution.stride
        self.weight = _integers_like(convolution.weight)  # (out, in, kernel)
        self.weight_scale = _scales_like(convolution.weight)
        self.bias = convolution.bias

    def effective_weight(self) -> Tensor:
        return dequantize_weight(self.weight, self.weight_scale)


class Int8PositionalConvolution(WeightNormConvolution):
    """`WeightNormConvolution` that keeps its weight, the norm worked in, in int8."""

    def __init__(self, convolution: WeightNormConvolution) -> None:
        nn.Module.__init__(self)
        self.groups = convolution.groups
        self.weight = _integers_like(convolution.weight_v)  # (channels, channels / groups, kernel)
        self.weight_scale = _scales_like(convolution.weight_v)
        self.bias = convolution.bias

    def effective_weight(self) -> Tensor:
        return dequantize_weight(self.weight, self.weight_scale)


def _integers_like(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.zeros_like(weight, dtype=torch.int8), requires_grad=False)


def _scales_like(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.new_ones(len(weight)), requires_grad=False)


def _int8_module(module: nn.Module) -> nn.Module | None:
    """The int8 counterpart of `module`; None when it stays as it is."""
    if isinstance(module, nn.Linear):
        return Int8Linear(module)
    if isinstance(module, WeightNormConvolution):
        return Int8PositionalConvolution(module)
    if isinstance(module, StridedConvolution) and module.weight.shape[1] > 1:
        return Int8Convolution(module)
    return None


def apply(model: AcousticModel, quantization: dict[str, Any]) -> list[str]:
    """Put int8 modules in place, without values: the model then takes the state dict of a quantized file.

    Returns the names of the modules replaced. Raises `InputError` when the file's scheme is not ours.
    """
    if quantization.get("scheme") != SCHEME:
        raise InputError(f"quantization: `scheme` is {quantization.get('scheme')!r}; it must be {SCHEME!r}")
    replaced = []
    for name, module in list(model.named_modules()):
        substitute = _int8_module(module)
        if substitute is not None:
            model.set_submodule(name, substitute)
            replaced.append(name)
    return replaced


def quantize_state(architecture: Architecture, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The float state dict with `NAME.weight` in int8 and `NAME.weight_scale` for every module `apply` replaces."""
    with torch.device("meta"):
        names = apply(AcousticModel(architecture), {"scheme": SCHEME})
    quantized = dict(state)
    for name in names:
        if f"{name}.weight_g" in quantized:
            gain, direction = quantized.pop(f"{name}.weight_g"), quantized.pop(f"{name}.weight_v")
            weight = torch._weight_norm(direction.float(), gain.float(), 2)
        else:
            weight = quantized[f"{name}.weight"].float()
        quantized[f"{name}.weight"], quantized[f"{name}.weight_scale"] = quantize_weight(weight)
    return quantized
