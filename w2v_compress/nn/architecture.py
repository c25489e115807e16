"""The architecture of a network, as stored in model files and fairseq checkpoints, and the named architectures."""

import ast
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import InputError
from .compression import MAX_FACTOR, CompressionPoint

ConvLayers = tuple[tuple[int, int, int], ...]

WAV2VEC2_CONV_LAYERS: ConvLayers = ((512, 10, 5),) + ((512, 3, 2),) * 4 + ((512, 2, 2),) * 2
SEW_CONV_LAYERS: ConvLayers = (
    (64, 10, 5),
    *((128, 3, 2), (128, 1, 1)) * 2,
    *((256, 3, 2), (256, 1, 1)) * 2,
    *((512, 2, 2), (512, 1, 1)) * 2,
)
"""The compact feature extractor of SEW: WFE-C with c = 64 and l = 1 (Wu et al. 2021, section 4)."""
MAX_CONV_LAYERS = 64
"""Largest number of convolutions; it bounds the memory of `parse_conv_layers`."""
ALLOWED_VALUES = (
    ("extractor_mode", ("default", "layer_norm")),
    ("activation_fn", ("gelu", "relu")),
    ("upsampling_activation", ("gelu", "none")),
)
"""Fields of `Architecture` that are names, and the names allowed."""
SUPPORTED_FAIRSEQ_VALUES = {
    "layer_type": "transformer",
    "pos_conv_depth": 1,
    "quantize_input": False,
    "crop_seq_to_multiple": 1,
}
"""Settings of fairseq's `wav2vec2` with a single supported value; other values change the network."""


LEAST_CHANNELS = 16
"""Least input channels of a group of a convolution in bf16.

On processors with AMX, oneDNN 3.12, which torch and OpenVINO use, computes wrong values for 2 to 14 channels and
kernels of 8 or more. Zeros fill up the groups of narrower networks.
"""

ELASTIC_FIELDS = ("learned_upsampling", "upsampling_activation", "centered_positions")
"""Fields of `Architecture` that fairseq's `wav2vec2` does not have."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Architecture of a wav2vec 2.0 CTC network (Baevski et al. 2020, section 2), with fairseq's field names.

    Raises `InputError` that names the field if a value is invalid.
    """

    conv_layers: ConvLayers = WAV2VEC2_CONV_LAYERS
    """Output channels, kernel and stride of each convolution of the feature extractor."""
    extractor_mode: Literal["default", "layer_norm"] = "default"
    """Normalization in the feature extractor. `default`: a group norm after the first convolution (base);
    `layer_norm`: a layer norm after each convolution (large)."""
    conv_bias: bool = False
    """Whether the convolutions of the feature extractor have biases."""
    encoder_layers: int = 12
    """Number of transformer layers."""
    encoder_embed_dim: int = 768
    """Channels of the transformer."""
    encoder_ffn_embed_dim: int = 3072
    """Hidden channels of the feed-forward blocks."""
    encoder_attention_heads: int = 12
    """Attention heads of each layer; must divide `encoder_embed_dim`."""
    layer_norm_first: bool = False
    """Whether layer norms come before (large) or after (base) the attention and feed-forward blocks."""
    activation_fn: str = "gelu"
    """Activation of the feed-forward blocks, `gelu` or `relu`. The feature extractor and the positional convolution
    always use GELU."""
    conv_pos: int = 128
    """Kernel of the positional convolution in frames."""
    conv_pos_groups: int = 16
    """Groups of the positional convolution; must divide `encoder_embed_dim`."""
    learned_upsampling: tuple[int, ...] = ()
    """Squeeze factors that have an upsampling layer, as in SEW (Wu et al. 2021, section 4). If empty, upsampling
    repeats frames, which works for every squeeze factor."""
    upsampling_activation: Literal["gelu", "none"] = "gelu"
    """Activation after the upsampling layers: `gelu` as in SEW, or `none` for linear layers, which are initialized to
    repetition."""
    centered_positions: bool = False
    """Whether the window of the positional convolution is centred on the frames that are squeezed together, rather than
    on the first of them, as in SEW. Without squeezing there is no difference."""
    num_units: int = 32
    """Number of output classes, including the CTC blank."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "conv_layers", _checked_conv_layers(self.conv_layers))
        factors = self.learned_upsampling
        if (
            not isinstance(factors, list | tuple)
            or len(factors) > MAX_FACTOR
            or any(type(factor) is not int or not 2 <= factor <= MAX_FACTOR for factor in factors)
        ):
            raise InputError(
                f"architecture: `learned_upsampling` is {factors!r}; it must be a list of squeeze factors from 2 to "
                f"{MAX_FACTOR}"
            )
        object.__setattr__(self, "learned_upsampling", tuple(sorted(set(factors))))
        counts = [field.name for field in dataclasses.fields(self) if field.type is int]
        for name in counts:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"architecture: `{name}` is {value!r}; it must be a whole number of at least 1")
        for name in ("conv_bias", "layer_norm_first", "centered_positions"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"architecture: `{name}` is {getattr(self, name)!r}; it must be true or false")
        for name, allowed in ALLOWED_VALUES:
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"architecture: `{name}` is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}"
                )
        for name in ("encoder_attention_heads", "conv_pos_groups"):
            if self.encoder_embed_dim % getattr(self, name):
                raise InputError(
                    f"architecture: `{name}` ({getattr(self, name)}) must divide "
                    f"`encoder_embed_dim` ({self.encoder_embed_dim})"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, as stored in the header of a model file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Architecture":
        """Create an architecture from the result of `to_dict`; raise `InputError` for unknown or invalid fields."""
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise InputError(f"architecture: unknown field `{unknown[0]}`")
        return cls(**values)

    def to_fairseq(self) -> dict[str, Any]:
        """Return the settings of the fairseq model that builds this network.

        The model is fairseq's `wav2vec2`, or this project's `stochastic_sew` if upsampling is learned or positions are
        centred. `num_units` is left out: fairseq takes it from the dictionary of the task.
        """
        settings = self.to_dict()
        del settings["num_units"]
        layers = settings.pop("conv_layers")
        elastic = {name: settings.pop(name) for name in ELASTIC_FIELDS}
        network: dict[str, Any] = {"_name": "wav2vec2"}
        if elastic["learned_upsampling"] or elastic["centered_positions"]:
            network = {"_name": "stochastic_sew", **elastic, "learned_upsampling": list(elastic["learned_upsampling"])}
        return network | {"conv_feature_layers": repr([tuple(layer) for layer in layers]), **settings}

    @classmethod
    def from_fairseq(cls, settings: Mapping[str, Any], num_units: int) -> "Architecture":
        """Create an architecture from the settings in a checkpoint of fairseq's `wav2vec2` or a model of this project.

        Raises `InputError` that names the setting if its value is unsupported or invalid.
        """
        for name, allowed in SUPPORTED_FAIRSEQ_VALUES.items():
            if settings.get(name, allowed) != allowed:
                raise InputError(f"`{name}` is {settings[name]!r}; only {allowed!r} is supported")
        names = {field.name for field in dataclasses.fields(cls)} - {"conv_layers", "num_units"}
        fields = {name: settings[name] for name in sorted(names & settings.keys())}
        if "squeeze_factor" in settings:  # this project's `sew`: one squeeze factor, with learned upsampling
            fields["learned_upsampling"] = [settings["squeeze_factor"]] if settings["squeeze_factor"] != 1 else []
            fields["upsampling_activation"] = "gelu"
        if settings.get("conv_feature_layers"):
            fields["conv_layers"] = parse_conv_layers(str(settings["conv_feature_layers"]))
        return cls(**fields, num_units=num_units)

    def pools_per_layer(self, point: CompressionPoint) -> list[tuple[int, int]]:
        """Return (query pooling, key-value pooling) of each layer at `point`.

        Raises `InputError` if the network has no upsampling layer for the squeeze factor, or another number of layers.
        """
        if self.learned_upsampling and point.squeeze not in (1, *self.learned_upsampling):
            raise InputError(
                f"compression point {point}: this network learned to upsample for a squeeze of "
                f"{', '.join(map(str, self.learned_upsampling))}; it must be one of these or 1"
            )
        return point.pools_per_layer(self.encoder_layers)

    def position_shift(self, squeeze: int) -> int:
        """Return the distance, in frames, from the first of `squeeze` frames to the centre of the positional window."""
        return (squeeze - 1) // 2 if self.centered_positions else 0

    @property
    def has_group_norm(self) -> bool:
        """Whether a group norm follows the first convolution (base), rather than a layer norm each one (large)."""
        return self.extractor_mode == "default"

    @property
    def samples_per_frame(self) -> int:
        """Hop between output frames in audio samples: 320, or 20 ms, in the published models."""
        product = 1
        for _, _, stride in self.conv_layers:
            product *= stride
        return product

    def frames(self, samples: int) -> int:
        """Return the number of output frames for `samples` audio samples; 0 below one receptive field."""
        for _, kernel, stride in self.conv_layers:
            samples = (samples - kernel) // stride + 1 if samples >= kernel else 0
        return samples

    @property
    def receptive_field(self) -> int:
        """Audio samples that one output frame depends on: 400, or 25 ms, in the published models."""
        samples = 1
        for _, kernel, stride in reversed(self.conv_layers):
            samples = (samples - 1) * stride + kernel
        return samples


def _checked_conv_layers(layers: Any) -> ConvLayers:
    """Return `layers` as tuples; raise `InputError` unless it is a list of (channels, kernel, stride) from 1."""
    try:
        checked = tuple((channels, kernel, stride) for channels, kernel, stride in layers)
    except (TypeError, ValueError):
        checked = ()
    valid = all(type(value) is int and value >= 1 for layer in checked for value in layer)
    if not valid or not 0 < len(checked) <= MAX_CONV_LAYERS:
        raise InputError(
            f"architecture: `conv_layers` is {layers!r}; it must be a list of 1 to {MAX_CONV_LAYERS} "
            "(channels, kernel, stride), each at least 1"
        )
    return checked


def parse_conv_layers(text: str) -> ConvLayers:
    """Parse fairseq's `conv_feature_layers`, a Python expression such as `[(512, 10, 5)] + [(512, 3, 2)] * 4`.

    fairseq passes the expression to `eval`, so a checkpoint could run code with it. This parser accepts lists, tuples,
    whole numbers, `+` and `*`, and raises `InputError` for anything else or more than `MAX_CONV_LAYERS` layers.
    """

    def value(node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=int() as number):
                return number
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return [value(item) for item in items]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return value(left) + value(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                first, second = value(left), value(right)
                items, times = (first, second) if isinstance(first, list) else (second, first)
                if not isinstance(items, list) or not isinstance(times, int):
                    raise ValueError(f"`{ast.unparse(node)[:80]}` is not a list times a number")
                # Checked before multiplying, because a short text can ask for any amount of memory.
                if len(items) * times > MAX_CONV_LAYERS:
                    raise ValueError(f"more than {MAX_CONV_LAYERS} layers")
                return items * times
        raise ValueError(f"`{ast.unparse(node)[:80]}` is not a list of whole numbers")

    try:
        return _checked_conv_layers(value(ast.parse(text.strip(), mode="eval").body))
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(
            f"conv_feature_layers: {text[:200]!r} cannot be read ({error}); "
            "it must be a list of (channels, kernel, stride), joined with + and *"
        ) from None


_LARGE = Architecture(
    extractor_mode="layer_norm",
    conv_bias=True,
    encoder_layers=24,
    encoder_embed_dim=1024,
    encoder_ffn_embed_dim=4096,
    encoder_attention_heads=16,
    layer_norm_first=True,
)

_SEW_TINY = Architecture(
    conv_layers=SEW_CONV_LAYERS,
    encoder_embed_dim=512,
    encoder_ffn_embed_dim=2048,
    encoder_attention_heads=8,
    conv_pos=31,
    learned_upsampling=(2,),
)
_SEW_SMALL = dataclasses.replace(
    _SEW_TINY, encoder_embed_dim=768, encoder_ffn_embed_dim=3072, encoder_attention_heads=12
)

ARCHITECTURES: dict[str, Architecture] = {
    "base": Architecture(),
    "large": _LARGE,
    "student-12": dataclasses.replace(_LARGE, encoder_layers=12),
    "student-4": dataclasses.replace(_LARGE, encoder_layers=4),
    "sew-tiny": _SEW_TINY,
    "sew-small": _SEW_SMALL,
    "sew-mid": dataclasses.replace(_SEW_SMALL, encoder_layers=24),
}
"""Named architectures: `base` and `large` from wav2vec 2.0 (Baevski et al. 2020), `student-12` and `student-4` from
"Shrinking Bigfoot" (Peng et al. 2021, section 3), `sew-*` from SEW with squeeze factor 2 (Wu et al. 2021)."""


def named_architecture(name: str) -> Architecture:
    """Return the architecture `name` of `ARCHITECTURES`; raise `InputError` with the allowed names if it is unknown."""
    if name not in ARCHITECTURES:
        raise InputError(f"architecture {name!r} is not known; it must be one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
