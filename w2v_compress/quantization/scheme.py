"""Quantization schemes: which parts of a network are int8, as the `quantization` field of a model file states.

Scheme `paper` quantizes the linear layers, as in "Shrinking Bigfoot" (Peng et al. 2021, section 3); `full` quantizes
the convolutions too. In both, the parts listed in `keep` stay in floating point. A part is quantized as one unit, and
numbers N count from 0, as in the tensor names:

- `extractor.N`: a convolution of the feature extractor
- `projection`: the linear layer from features to the encoder's channels
- `positional`: the positional convolution
- `upsampling.S`: the learned upsampling of squeeze factor S
- `layers.N`: the linear layers of a transformer layer
- `head`: the CTC head
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..nn.acoustic_model import AcousticModel
from ..nn.architecture import Architecture
from ..nn.meta import on_meta_device
from ..nn.modules import replace_modules, restore_modules
from .int8 import Int8Module, dequantize_weight, int8_module, quantize_weight

Scheme = Literal["full", "paper"]
SCHEMES: tuple[str, ...] = get_args(Scheme)
LEGACY_SCHEME = "int8"
"""Name of `full` in model files of version 0.1.0."""
PART_NAMES = (
    (re.compile(r"w2v_model\.feature_extractor\.conv_layers\.(\d+)\.0"), r"extractor.\1"),
    (re.compile(r"w2v_model\.post_extract_proj"), "projection"),
    (re.compile(r"w2v_model\.encoder\.pos_conv\.0"), "positional"),
    (re.compile(r"w2v_model\.encoder\.upsampling\.(\d+)"), r"upsampling.\1"),
    (re.compile(r"w2v_model\.encoder\.layers\.(\d+)\..*"), r"layers.\1"),
    (re.compile(r"proj"), "head"),
)
"""Pattern of a module's name, and the part it belongs to."""


def quantizable_parts(model: AcousticModel, scheme: str) -> dict[str, list[str]]:
    """Return the parts that `scheme` quantizes, from input to output, each with the names of its modules.

    Raises `InputError` if the scheme is unknown.
    """
    if scheme not in (*SCHEMES, LEGACY_SCHEME):
        raise InputError(f"quantization: `scheme` is {scheme!r}; it must be one of {', '.join(SCHEMES)}")
    with on_meta_device():
        names = [
            name
            for name, module in model.named_modules()
            if (isinstance(module, nn.Linear) if scheme == "paper" else int8_module(module) is not None)
        ]
    parts: dict[str, list[str]] = {}
    for name in names:
        (part,) = [match.expand(label) for pattern, label in PART_NAMES if (match := pattern.fullmatch(name))]
        parts.setdefault(part, []).append(name)
    return parts


def validate_keep(parts: Collection[str], keep: object) -> tuple[str, ...]:
    """Return `keep` as a tuple; raise `InputError` unless it is a list of names in `parts`."""
    if not isinstance(keep, list | tuple) or not all(isinstance(name, str) for name in keep):
        raise InputError(f"quantization: `keep` is {keep!r}; it must be a list of names")
    for name in keep:
        if name not in parts:
            raise InputError(f"quantization: `keep` names {name!r}; it must be one of {', '.join(parts)}")
    return tuple(keep)


def apply(model: AcousticModel, quantization: Mapping[str, Any]) -> list[str]:
    """Replace the modules of `model` by int8 modules with zero weights, to load the state dict of a quantized file.

    `quantization` is that of a model file, with the fields `scheme` and optionally `keep`. Returns the names of the
    replaced modules. Raises `InputError` that names the field if it is unknown or invalid.
    """
    unknown = sorted(quantization.keys() - {"scheme", "keep"})
    if unknown:
        raise InputError(f"quantization: unknown field `{unknown[0]}`")
    parts = quantizable_parts(model, quantization.get("scheme", ""))
    keep = validate_keep(parts, quantization.get("keep", []))
    quantized = {name for part, names in parts.items() if part not in keep for name in names}
    originals = replace_modules(model, lambda name, module: int8_module(module) if name in quantized else None)
    return list(originals)


def quantize_state_dict(
    architecture: Architecture, names: Collection[str], read: Callable[[str], Tensor], quantization: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Quantize a floating-point state dict with the tensors `names`, which `read` returns by name, one at a time.

    In the result, each module that `apply` replaces has the tensors `NAME.weight` in int8 and `NAME.weight_scale`.
    Raises the errors of `apply`.
    """
    with on_meta_device():
        replaced = apply(AcousticModel(architecture), quantization)
    weights = {f"{name}.{kind}" for name in replaced for kind in ("weight", "weight_g", "weight_v")}
    state = {name: read(name) for name in names if name not in weights}
    for name in replaced:
        state |= _quantize_weight_at(f"{name}.", names, read)
    return state


def _quantize_weight_at(prefix: str, names: Collection[str], read: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Quantize the weight of the module whose tensor names start with `prefix`, with or without weight norm.

    Returns the tensors `weight`, int8, and `weight_scale` under the prefix.
    """
    if f"{prefix}weight_g" in names:
        gain, direction = read(f"{prefix}weight_g"), read(f"{prefix}weight_v")
        weight = torch._weight_norm(direction.float(), gain.float(), 2)
    else:
        weight = read(f"{prefix}weight").float()
    integers, scale = quantize_weight(weight)
    return {f"{prefix}weight": integers, f"{prefix}weight_scale": scale}


def dequantized_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of a quantized file to a floating-point one with the same weights in fp32.

    The positional convolution has weight norm again, with the norms of its weight as gains.
    """
    floating: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(".weight_scale"):
            continue
        weight = dequantize_weight(tensor, state[f"{name}_scale"]) if f"{name}_scale" in state else tensor
        if name.endswith("pos_conv.0.weight"):
            floating |= {f"{name}_g": weight.norm(dim=(0, 1), keepdim=True), f"{name}_v": weight}
        else:
            floating[name] = weight
    return floating


@contextmanager
def temporarily_quantized(model: AcousticModel, modules: Collection[str]) -> Iterator[None]:
    """Quantize the named modules of a floating-point model inside the `with` block, and restore them afterwards."""
    substitutes = {name: _int8_copy(model.get_submodule(name)) for name in modules}
    originals = replace_modules(model, lambda name, _: substitutes.get(name))
    try:
        yield
    finally:
        restore_modules(model, originals)


def _int8_copy(module: nn.Module) -> Int8Module:
    """Quantize one module, which must have an int8 counterpart."""
    copy = int8_module(module)
    assert copy is not None
    state = module.state_dict()
    bias = {"bias": state["bias"]} if "bias" in state else {}
    copy.load_state_dict(_quantize_weight_at("", state, state.__getitem__) | bias)
    return copy
