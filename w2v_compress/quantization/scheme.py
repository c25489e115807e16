"""Which parts of a network are int8: what the `quantization` of a model file says, applied to a network.

`paper`: the Linear layers, as "Shrinking Bigfoot" has it (Peng et al. 2021, section 3). `full`: the convolutions too.
Either way `keep` names parts that stay in floating point. A part is what is switched as a whole: `extractor.N` (a
convolution of the extractor), `projection` (from features to the encoder's width), `positional` (the positional
convolution), `upsampling.S` (learned, of the squeeze factor S), `layers.N` (a transformer layer) and `head` (the CTC
head), counted from 0 as in the tensors' names.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..nn import AcousticModel, Architecture
from ..nn.meta import without_memory
from .int8 import dequantize_weight, int8_module, quantize_weight

Scheme = Literal["full", "paper"]
SCHEMES: tuple[str, ...] = get_args(Scheme)
FIRST_SCHEME = "int8"  # what version 0.1.0 called `full`
PART_NAMES = (
    (re.compile(r"w2v_model\.feature_extractor\.conv_layers\.(\d+)\.0"), r"extractor.\1"),
    (re.compile(r"w2v_model\.post_extract_proj"), "projection"),
    (re.compile(r"w2v_model\.encoder\.pos_conv\.0"), "positional"),
    (re.compile(r"w2v_model\.encoder\.upsampling\.(\d+)"), r"upsampling.\1"),
    (re.compile(r"w2v_model\.encoder\.layers\.(\d+)\..*"), r"layers.\1"),
    (re.compile(r"proj"), "head"),
)


def parts(model: AcousticModel, scheme: str) -> dict[str, list[str]]:
    """The parts that `scheme` quantizes, from the waveform up, and the names of each one's modules.

    Raises `InputError` when the scheme is unknown.
    """
    if scheme not in (*SCHEMES, FIRST_SCHEME):
        raise InputError(f"quantization: `scheme` is {scheme!r}; it must be one of {', '.join(SCHEMES)}")
    with without_memory():
        names = [
            name
            for name, module in model.named_modules()
            if (isinstance(module, nn.Linear) if scheme == "paper" else int8_module(module) is not None)
        ]
    found: dict[str, list[str]] = {}
    for name in names:
        (part,) = [match.expand(label) for pattern, label in PART_NAMES if (match := pattern.fullmatch(name))]
        found.setdefault(part, []).append(name)
    return found


def check_keep(known: Collection[str], keep: Any) -> tuple[str, ...]:
    """`keep` as names of parts; raises `InputError` when it is no list of names in `known`."""
    if not isinstance(keep, list | tuple) or not all(isinstance(name, str) for name in keep):
        raise InputError(f"quantization: `keep` is {keep!r}; it must be a list of names")
    for name in keep:
        if name not in known:
            raise InputError(f"quantization: `keep` names {name!r}; it must be one of {', '.join(known)}")
    return tuple(keep)


def apply(model: AcousticModel, quantization: dict[str, Any]) -> list[str]:
    """Put int8 modules in place, without values: the model then takes the state dict of a quantized file.

    Returns the names of the modules replaced. Raises `InputError` when `quantization` is not ours.
    """
    unknown = sorted(quantization.keys() - {"scheme", "keep"})
    if unknown:
        raise InputError(f"quantization: unknown field `{unknown[0]}`")
    found = parts(model, quantization.get("scheme", ""))
    keep = check_keep(found, quantization.get("keep", []))
    replaced = [name for part, names in found.items() if part not in keep for name in names]
    for name in replaced:
        substitute = int8_module(model.get_submodule(name))
        assert substitute is not None  # `parts` lists none that has no counterpart
        model.set_submodule(name, substitute)
    return replaced


def quantize_state(
    architecture: Architecture, names: Collection[str], read: Callable[[str], Tensor], quantization: dict[str, Any]
) -> dict[str, Tensor]:
    """The state dict of a quantized file, from the floating-point one whose tensors are `names` and read by `read`.

    Tensors are read one at a time. Each module that `apply` replaces has `NAME.weight` in int8 and
    `NAME.weight_scale`.
    """
    with without_memory():
        replaced = apply(AcousticModel(architecture), quantization)
    weights = {f"{name}.{kind}" for name in replaced for kind in ("weight", "weight_g", "weight_v")}
    state = {name: read(name) for name in names if name not in weights}
    for name in replaced:
        state |= quantized_weight(name, names, read)
    return state


def quantized_weight(module: str, names: Collection[str], read: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """`MODULE.weight` in int8 and `MODULE.weight_scale`, from the weight or from weight norm's gain and direction."""
    if f"{module}.weight_g" in names:
        gain, direction = read(f"{module}.weight_g"), read(f"{module}.weight_v")
        weight = torch._weight_norm(direction.float(), gain.float(), 2)
    else:
        weight = read(f"{module}.weight").float()
    integers, scale = quantize_weight(weight)
    return {f"{module}.weight": integers, f"{module}.weight_scale": scale}


def widened_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The floating-point state dict of a quantized file's: its int8 weights as they are, in fp32.

    The positional convolution is under weight norm again, with gains that change nothing.
    """
    wide: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(".weight_scale"):
            continue
        weight = dequantize_weight(tensor, state[f"{name}_scale"]) if f"{name}_scale" in state else tensor
        if name.endswith("pos_conv.0.weight"):
            wide |= {f"{name}_g": weight.norm(dim=(0, 1), keepdim=True), f"{name}_v": weight}
        else:
            wide[name] = weight
    return wide


@contextmanager
def quantized(model: AcousticModel, modules: Collection[str]) -> Iterator[None]:
    """Within, these modules of a floating-point model are int8; then they are as they were."""
    originals = {name: model.get_submodule(name) for name in modules}
    try:
        for name, module in originals.items():
            substitute = int8_module(module)
            assert substitute is not None
            state = {f"{name}.{key}": value for key, value in module.state_dict().items()}
            values = quantized_weight(name, state, state.__getitem__)
            if f"{name}.bias" in state:
                values[f"{name}.bias"] = state[f"{name}.bias"]
            substitute.load_state_dict({key.removeprefix(f"{name}."): value for key, value in values.items()})
            model.set_submodule(name, substitute)
        yield
    finally:
        for name, module in originals.items():
            model.set_submodule(name, module)
