"""Names and shapes of a network's parameters, computed from its architecture alone. Does not import torch."""

import math

from ..errors import InputError
from .architecture import Architecture

Shapes = dict[str, tuple[int, ...]]

ENCODER = "w2v_model.encoder"
EXTRACTOR = "w2v_model.feature_extractor.conv_layers"
POSITIONAL = f"{ENCODER}.pos_conv.0"
PROJECTION = "w2v_model.post_extract_proj"
HEAD = "proj"


def parameter_shapes(architecture: Architecture) -> Shapes:
    """Return the shape of each tensor in `AcousticModel(architecture).state_dict()` by its name, in the same order."""
    channels = architecture.encoder_embed_dim
    features = architecture.conv_layers[-1][0]
    shapes: Shapes = {"w2v_model.mask_emb": (channels,)}
    inputs = 1
    for index, (outputs, kernel, _) in enumerate(architecture.conv_layers):
        shapes[f"{EXTRACTOR}.{index}.0.weight"] = (outputs, inputs, kernel)
        if architecture.conv_bias:
            shapes[f"{EXTRACTOR}.{index}.0.bias"] = (outputs,)
        if architecture.extractor_mode == "layer_norm":
            shapes |= _norm(f"{EXTRACTOR}.{index}.2.1", outputs)
        elif index == 0:
            shapes |= _norm(f"{EXTRACTOR}.{index}.2", outputs)
        inputs = outputs
    shapes |= _norm("w2v_model.layer_norm", features)
    if features != channels:
        shapes |= _linear(PROJECTION, features, channels)
    kernel, groups = architecture.conv_pos, architecture.conv_pos_groups
    shapes[f"{POSITIONAL}.weight_g"] = (1, 1, kernel)
    shapes[f"{POSITIONAL}.weight_v"] = (channels, channels // groups, kernel)
    shapes[f"{POSITIONAL}.bias"] = (channels,)
    for index in range(architecture.encoder_layers):
        layer = f"{ENCODER}.layers.{index}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes |= _linear(f"{layer}.self_attn.{name}", channels, channels)
        shapes |= _norm(f"{layer}.self_attn_layer_norm", channels)
        shapes |= _linear(f"{layer}.fc1", channels, architecture.encoder_ffn_embed_dim)
        shapes |= _linear(f"{layer}.fc2", architecture.encoder_ffn_embed_dim, channels)
        shapes |= _norm(f"{layer}.final_layer_norm", channels)
    shapes |= _norm(f"{ENCODER}.layer_norm", channels)
    for squeeze in architecture.learned_upsampling:
        shapes |= _linear(f"{ENCODER}.upsampling.{squeeze}", channels, squeeze * channels)
    return shapes | _linear(HEAD, channels, architecture.num_units)


def parameter_count(architecture: Architecture) -> int:
    """Return the number of parameters."""
    return sum(math.prod(shape) for shape in parameter_shapes(architecture).values())


def check_layer_counts(architecture: Architecture, num_tensors: int) -> None:
    """Raise `InputError` if a file of `num_tensors` tensors cannot hold the layers of `architecture`.

    Every layer has tensors, so a valid file has at least as many tensors as layers. Checking this first bounds the
    time and memory that a damaged header can cost.
    """
    for name, layers in (
        ("encoder_layers", architecture.encoder_layers),
        ("conv_layers", len(architecture.conv_layers)),
        ("learned_upsampling", len(architecture.learned_upsampling)),
    ):
        if layers > num_tensors:
            raise InputError(f"architecture: `{name}` is {layers} layers, too many for a file of {num_tensors} tensors")


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}
