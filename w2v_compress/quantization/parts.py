"""Quantization schemes: which parts of a network are int8, as the `quantization` field of a model file states.

Scheme `paper` quantizes the linear layers, as in "Shrinking Bigfoot" (Peng et al. 2021, section 3); `full` quantizes
the convolutions too. With calibration, activations have fixed scales, and the products of queries with keys are int8
too; those of probabilities with values are not, because most probabilities are far smaller than a step of 1/255. The
parts listed in `keep` stay in floating point. A part is quantized as one unit, and numbers N count from 0, as in
the tensor names:

- `extractor.N`: a convolution of the feature extractor
- `projection`: the linear layer from features to the encoder's channels
- `positional`: the positional convolution
- `upsampling.S`: the learned upsampling of squeeze factor S
- `layers.N`: the linear layers of a transformer layer
- `attention.N`: the products of queries with keys in a transformer layer
- `head`: the CTC head

This module does not import torch.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args

from ..errors import InputError
from ..nn.architecture import Architecture
from ..nn.parameters import POSITIONAL, Shapes, parameter_shapes

Scheme = Literal["full", "paper"]
SCHEMES: tuple[str, ...] = get_args(Scheme)
LEGACY_SCHEME = "int8"
"""Name of `full` in model files of version 0.1.0."""
FIELDS = ("scheme", "keep", "calibration")
PART_NAMES = (
    (re.compile(r"w2v_model\.feature_extractor\.conv_layers\.(\d+)\.0"), r"extractor.\1"),
    (re.compile(r"w2v_model\.post_extract_proj"), "projection"),
    (re.compile(r"w2v_model\.encoder\.pos_conv\.0"), "positional"),
    (re.compile(r"w2v_model\.encoder\.upsampling\.(\d+)"), r"upsampling.\1"),
    (re.compile(r"w2v_model\.encoder\.layers\.(\d+)\.self_attn\.products"), r"attention.\1"),
    (re.compile(r"w2v_model\.encoder\.layers\.(\d+)\..*"), r"layers.\1"),
    (re.compile(r"proj"), "head"),
)
"""Pattern of a module's name, and the part it belongs to."""
ATTENTION_OPERANDS = ("query", "key")
"""The quantized operands of attention, in the order of their scales in the tensor `products.scale`."""


def quantizable_parts(architecture: Architecture, scheme: str, *, calibrated: bool = False) -> dict[str, list[str]]:
    """Return the parts that `scheme` quantizes, from input to output, each with the names of its modules.

    Raises `InputError` if the scheme is unknown.
    """
    if scheme not in (*SCHEMES, LEGACY_SCHEME):
        raise InputError(f"quantization: `scheme` is {scheme!r}; it must be one of {', '.join(SCHEMES)}")
    parts: dict[str, list[str]] = {}
    for tensor, shape in parameter_shapes(architecture).items():
        name, _, kind = tensor.rpartition(".")
        linear = kind == "weight" and len(shape) == 2
        # The group norm rescales the 10 weights per channel of the first convolution for each utterance.
        convolution = kind == "weight_v" or (kind == "weight" and len(shape) == 3 and shape[1] > 1)
        if linear or (convolution and scheme != "paper"):
            parts.setdefault(_part(name), []).append(name)
            if calibrated and name.endswith("self_attn.out_proj"):
                products = name.replace("out_proj", "products")
                parts[_part(products)] = [products]
    return parts


def _part(name: str) -> str:
    (pattern, label) = next(item for item in PART_NAMES if item[0].fullmatch(name))
    return pattern.sub(label, name)


def validate_keep(parts: Collection[str], keep: object) -> tuple[str, ...]:
    """Return `keep` as a tuple; raise `InputError` unless it is a list of names in `parts`."""
    if not isinstance(keep, list | tuple) or not all(isinstance(name, str) for name in keep):
        raise InputError(f"quantization: `keep` is {keep!r}; it must be a list of names")
    for name in keep:
        if name not in parts:
            raise InputError(f"quantization: `keep` names {name!r}; it must be one of {', '.join(parts)}")
    return tuple(keep)


def is_calibrated(quantization: Mapping[str, Any] | None) -> bool:
    """Return whether the `quantization` field of a model file says that activations have fixed scales."""
    return quantization is not None and quantization.get("calibration") is not None


def quantized_modules(architecture: Architecture, quantization: Mapping[str, Any]) -> list[str]:
    """Return the names of the modules that are int8 in a file with this `quantization` field.

    Raises `InputError` that names the field if it is unknown or invalid.
    """
    unknown = sorted(quantization.keys() - set(FIELDS))
    if unknown:
        raise InputError(f"quantization: unknown field `{unknown[0]}`")
    if not isinstance(quantization.get("calibration"), dict | None):
        raise InputError("quantization: `calibration` must be null or a JSON object")
    parts = quantizable_parts(architecture, quantization.get("scheme", ""), calibrated=is_calibrated(quantization))
    keep = validate_keep(parts, quantization.get("keep", []))
    return [name for part, names in parts.items() if part not in keep for name in names]


def has_input_scale(name: str) -> bool:
    """Return whether the module `name` of a calibrated model has scales for its input: not the positional convolution.

    OpenVINO computes it with floating-point activations: in int8 it was measured to be slower for a few seconds of
    audio, and at most 5% of the network's time faster for more.
    """
    return name != POSITIONAL and not is_attention(name)


def tensor_shapes(architecture: Architecture, quantization: Mapping[str, Any] | None) -> Shapes:
    """Return the shape of each tensor in a model file by its name; raises the errors of `quantized_modules`."""
    shapes = parameter_shapes(architecture)
    for name in [] if quantization is None else quantized_modules(architecture, quantization):
        if is_attention(name):
            shapes[f"{name}.scale"] = (len(ATTENTION_OPERANDS),)
            continue
        if name == POSITIONAL:
            shapes[f"{name}.weight"] = shapes.pop(f"{name}.weight_v")
            del shapes[f"{name}.weight_g"]
        outputs, inputs, *_ = shapes[f"{name}.weight"]
        shapes[f"{name}.weight_scale"] = (outputs,)
        if is_calibrated(quantization) and has_input_scale(name):
            shapes |= {f"{name}.input_scale": (inputs,), f"{name}.input_zero": ()}
    return shapes


def is_attention(name: str) -> bool:
    """Return whether the module `name` holds the products of attention."""
    return name.endswith(".self_attn.products")
