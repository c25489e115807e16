"""Quantize networks and their weights by the schemes of `parts`."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.acoustic_model import AcousticModel
from ..nn.architecture import Architecture
from ..nn.modules import replace_modules
from .calibration import Calibration
from .int8 import dequantize_weight, int8_module, quantize_weight, scale_columns
from .parts import ATTENTION_OPERANDS, has_input_scale, is_attention, is_calibrated, quantized_modules


def apply(model: AcousticModel, quantization: Mapping[str, Any]) -> None:
    """Replace the modules of `model` by int8 modules with zero weights, to load the state dict of a quantized file.

    `quantization` is that of a model file. Raises `InputError` that names the field if it is unknown or invalid.
    """
    quantized = set(quantized_modules(model.architecture, quantization))
    calibrated = is_calibrated(quantization)

    def substitute(name: str, module: nn.Module) -> nn.Module | None:
        if name not in quantized:
            return None
        if is_attention(name):
            module.register_parameter("scale", nn.Parameter(torch.ones(len(ATTENTION_OPERANDS)), requires_grad=False))
            return None
        return int8_module(module, calibrated=calibrated)

    replace_modules(model, substitute)


def quantize_state_dict(
    architecture: Architecture,
    names: Collection[str],
    read: Callable[[str], Tensor],
    quantization: Mapping[str, Any],
    calibration: Calibration | None = None,
) -> dict[str, Tensor]:
    """Quantize a floating-point state dict with the tensors `names`, which `read` returns by name, one at a time.

    In the result, each module that `apply` replaces has the tensors `NAME.weight` in int8 and `NAME.weight_scale`, and
    with `calibration`, which the field `calibration` of `quantization` describes, `NAME.input_scale` and
    `NAME.input_zero`. Raises the errors of `quantized_modules`.
    """
    modules = quantized_modules(architecture, quantization)
    weights = {f"{name}.{kind}" for name in modules for kind in ("weight", "weight_g", "weight_v")}
    state = {name: read(name) for name in names if name not in weights}
    for name in modules:
        prefix = f"{name}."
        if calibration is None:
            state |= _quantize_weight_at(prefix, names, read)
        elif is_attention(name):
            state[f"{prefix}scale"] = calibration.product_scales(name)
        elif not has_input_scale(name):
            state |= _quantize_weight_at(prefix, names, read)
        else:
            inputs = calibration.input_scales(name, lambda module: _read_weight(f"{module}.", names, read))
            state |= _quantize_weight_at(prefix, names, read, inputs.scale)
            state |= {f"{prefix}input_scale": inputs.scale, f"{prefix}input_zero": inputs.zero}
    return state


def _quantize_weight_at(
    prefix: str, names: Collection[str], read: Callable[[str], Tensor], input_scale: Tensor | None = None
) -> dict[str, Tensor]:
    """Quantize the weight of the module whose tensor names start with `prefix`, with or without weight norm.

    Returns the tensors `weight`, int8, and `weight_scale` under the prefix. The columns of the weight are multiplied by
    `input_scale` first.
    """
    weight = _read_weight(prefix, names, read)
    integers, scale = quantize_weight(weight if input_scale is None else scale_columns(weight, input_scale))
    return {f"{prefix}weight": integers, f"{prefix}weight_scale": scale}


def _read_weight(prefix: str, names: Collection[str], read: Callable[[str], Tensor]) -> Tensor:
    """Return the weight of the module whose tensor names start with `prefix` in fp32, with or without weight norm."""
    if f"{prefix}weight_g" in names:
        gain, direction = read(f"{prefix}weight_g"), read(f"{prefix}weight_v")
        return torch._weight_norm(direction.float(), gain.float(), 2)
    return read(f"{prefix}weight").float()


def dequantized_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of a quantized file to a floating-point one with the same weights in fp32.

    The positional convolution has weight norm again, with the norms of its weight as gains.
    """
    floating: dict[str, Tensor] = {}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        if kind in ("weight_scale", "input_scale", "input_zero") or is_attention(module):
            continue
        scale = state.get(f"{name}_scale")
        weight = tensor if scale is None else dequantize_weight(tensor, scale, state.get(f"{module}.input_scale"))
        if name.endswith("pos_conv.0.weight"):
            floating |= {f"{name}_g": weight.norm(dim=(0, 1), keepdim=True), f"{name}_v": weight}
        else:
            floating[name] = weight
    return floating


def short_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round the int8 weights of calibrated modules to 7 bits, from -64 to 64, and double their scales.

    The other weights of a calibrated file are not multiplied in int8. See `Processor.overflows_int8`.
    """
    short = dict(state)
    for name in state:
        module, _, kind = name.rpartition(".")
        if kind == "input_scale":
            weight, scale = f"{module}.weight", f"{module}.weight_scale"
            short |= {weight: (state[weight].float() / 2).round().to(torch.int8), scale: 2 * state[scale]}
    return short
