"""Names and settings of Hugging Face's `Wav2Vec2ForCTC` in terms of ours. Does not need transformers.

In transformers' vocabulary the CTC blank is the padding token, so the first four units have other names there.
"""

import re
from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..nn.architecture import Architecture

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
"""Names of the first four units in transformers; fairseq's are in `data.units.SPECIALS`."""
ROLES = ("pad_token", "bos_token", "eos_token", "unk_token")
"""Names of these tokens in a tokenizer's configuration."""
PROJECTION = "wav2vec2.feature_projection.projection."
"""Prefix of the projection from features to the encoder's width. transformers has it between equal widths too."""

_TENSOR_NAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^proj\.", "lm_head."),
        (r"^w2v_model\.layer_norm\.", "wav2vec2.feature_projection.layer_norm."),
        (r"^w2v_model\.post_extract_proj\.", PROJECTION),
        (r"^w2v_model\.mask_emb$", "wav2vec2.masked_spec_embed"),
        (r"^w2v_model\.", "wav2vec2."),
        (r"\.conv_layers\.(\d+)\.0\.", r".conv_layers.\1.conv."),
        (r"\.conv_layers\.(\d+)\.2\.(1\.)?", r".conv_layers.\1.layer_norm."),
        (r"\.pos_conv\.0\.", ".pos_conv_embed.conv."),
        (r"\.weight_g$", ".parametrizations.weight.original0"),
        (r"\.weight_v$", ".parametrizations.weight.original1"),
        (r"\.self_attn\.", ".attention."),
        (r"\.self_attn_layer_norm\.", ".layer_norm."),
        (r"\.fc1\.", ".feed_forward.intermediate_dense."),
        (r"\.fc2\.", ".feed_forward.output_dense."),
    )
)
_WEIGHT_NORM_NAMES = (
    (re.compile(r"\.conv\.weight_g$"), ".conv.parametrizations.weight.original0"),
    (re.compile(r"\.conv\.weight_v$"), ".conv.parametrizations.weight.original1"),
)
_FIELDS = {
    "conv_bias": "conv_bias",
    "encoder_layers": "num_hidden_layers",
    "encoder_embed_dim": "hidden_size",
    "encoder_ffn_embed_dim": "intermediate_size",
    "encoder_attention_heads": "num_attention_heads",
    "layer_norm_first": "do_stable_layer_norm",
    "activation_fn": "hidden_act",
    "conv_pos": "num_conv_pos_embeddings",
    "conv_pos_groups": "num_conv_pos_embedding_groups",
    "num_units": "vocab_size",
}
_CONVOLUTIONS = ("conv_dim", "conv_kernel", "conv_stride")
_FIXED_SETTINGS = {
    "model_type": "wav2vec2",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "add_adapter": False,
    "adapter_attn_dim": None,
}
"""Settings that our network does not have, and the only value that is supported."""


def tensor_name(name: str) -> str:
    """Return the name in transformers of a tensor in `AcousticModel.state_dict`."""
    return _rename(name, _TENSOR_NAMES)


def current_name(name: str) -> str:
    """Return the current name of a tensor in transformers, whose older versions named the weight norm otherwise."""
    return _rename(name, _WEIGHT_NORM_NAMES)


def _rename(name: str, renames: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    for pattern, replacement in renames:
        name = pattern.sub(replacement, name)
    return name


def to_config(architecture: Architecture) -> dict[str, Any]:
    """Return the values of `config.json` for the network at (1, 1, 1), which has no upsampling."""
    convolutions = zip(_CONVOLUTIONS, zip(*architecture.conv_layers, strict=True), strict=True)
    return {
        "architectures": ["Wav2Vec2ForCTC"],
        **_FIXED_SETTINGS,
        **{theirs: getattr(architecture, ours) for ours, theirs in _FIELDS.items()},
        **{name: list(values) for name, values in convolutions},
        "num_feat_extract_layers": len(architecture.conv_layers),
        "feat_extract_norm": "group" if architecture.extractor_mode == "default" else "layer",
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "ctc_zero_infinity": True,
    }


def from_config(config: Mapping[str, Any], num_units: int) -> Architecture:
    """Read the values of `config.json`, with the base model's value for each that is missing.

    Raises `InputError` that names a setting that our network does not support.
    """
    if config.get("model_type") is None:
        raise InputError("`model_type` is missing: this is not a configuration of transformers")
    for name, allowed in _FIXED_SETTINGS.items():
        if config.get(name, allowed) != allowed:
            raise InputError(f"`{name}` is {config[name]!r}; only {allowed!r} is supported")
    fields = {ours: config[theirs] for ours, theirs in _FIELDS.items() if theirs in config}
    base = Architecture()
    layers = []
    for name, default in zip(_CONVOLUTIONS, zip(*base.conv_layers, strict=True), strict=True):
        values = config.get(name, default)
        if not isinstance(values, list | tuple):
            raise InputError(f"`{name}` is {values!r}; it must be a list")
        layers.append(values)
    if len({len(values) for values in layers}) > 1:
        raise InputError(f"{', '.join(f'`{name}`' for name in _CONVOLUTIONS)} must have the same length")
    norm = config.get("feat_extract_norm", "group")
    if norm not in ("group", "layer"):
        raise InputError(f"`feat_extract_norm` is {norm!r}; it must be one of group, layer")
    return Architecture(
        **fields | {"num_units": num_units},
        conv_layers=tuple(zip(*layers, strict=True)),
        extractor_mode="default" if norm == "group" else "layer_norm",
    )
