"""What a network is made of: the numbers that a model file carries, and the architectures known by name."""

import ast
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import InputError

ConvLayers = tuple[tuple[int, int, int], ...]

WAV2VEC2_CONV_LAYERS: ConvLayers = ((512, 10, 5),) + ((512, 3, 2),) * 4 + ((512, 2, 2),) * 2
SEW_CONV_LAYERS: ConvLayers = (
    (64, 10, 5),
    *((128, 3, 2), (128, 1, 1)) * 2,
    *((256, 3, 2), (256, 1, 1)) * 2,
    *((512, 2, 2), (512, 1, 1)) * 2,
)
"""The compact feature extractor WFE-C of SEW, c = 64 and l = 1 (Wu et al. 2021, section 4)."""
MOST_CONV_LAYERS = 64
CHOICES = (
    ("extractor_mode", ("default", "layer_norm")),
    ("activation_fn", ("gelu", "relu")),
    ("upsampling_activation", ("gelu", "none")),
)
FAIRSEQ_ONLY = {"layer_type": "transformer", "pos_conv_depth": 1, "quantize_input": False, "crop_seq_to_multiple": 1}
"""Settings of fairseq's `wav2vec2` that change the network in ways ours does not know, and their only allowed value."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Shape of a wav2vec 2.0 CTC network (Baevski et al. 2020, section 2), under fairseq's names.

    Raises `InputError` that names the field when a value is impossible.
    """

    conv_layers: ConvLayers = WAV2VEC2_CONV_LAYERS
    """(channels, kernel, stride) of each convolution of the feature extractor."""
    extractor_mode: Literal["default", "layer_norm"] = "default"
    """`default`: a group norm after the first convolution (base); `layer_norm`: one after each (large)."""
    conv_bias: bool = False
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    layer_norm_first: bool = False
    """Layer norm before (large) or after (base) each block."""
    activation_fn: str = "gelu"
    """Of the feed-forward blocks; the extractor and the positional convolution always use GELU."""
    conv_pos: int = 128
    """Kernel of the positional convolution, frames."""
    conv_pos_groups: int = 16
    learned_upsampling: tuple[int, ...] = ()
    """Squeeze factors with an upsampling layer of their own, as SEW has (Wu et al. 2021, section 4); without any,
    frames are repeated, which serves every factor."""
    upsampling_activation: Literal["gelu", "none"] = "gelu"
    """After that layer: `gelu` in SEW; `none` makes it a linear map, which starts as repetition."""
    num_units: int = 32
    """Output classes, the CTC blank included."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "conv_layers", _checked_conv_layers(self.conv_layers))
        factors = self.learned_upsampling
        if not isinstance(factors, list | tuple) or any(type(factor) is not int or factor < 2 for factor in factors):
            raise InputError(
                f"architecture: `learned_upsampling` is {factors!r}; it must be a list of squeeze factors from 2"
            )
        object.__setattr__(self, "learned_upsampling", tuple(sorted(set(factors))))
        counts = [field.name for field in dataclasses.fields(self) if field.type is int]
        for name in counts:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"architecture: `{name}` is {value!r}; it must be a whole number of at least 1")
        for name in ("conv_bias", "layer_norm_first"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"architecture: `{name}` is {getattr(self, name)!r}; it must be true or false")
        for name, allowed in CHOICES:
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
        """Plain values, as the metadata of a model file holds them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Architecture":
        """The inverse of `to_dict`; an unknown field is an `InputError`."""
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise InputError(f"architecture: unknown field `{unknown[0]}`")
        return cls(**values)

    def to_fairseq(self) -> dict[str, Any]:
        """The settings of fairseq's `wav2vec2`, or of our `stochastic_sew` where upsampling is learned, that build this
        network; fairseq keeps `num_units` elsewhere.
        """
        settings = self.to_dict()
        del settings["num_units"]
        layers = settings.pop("conv_layers")
        factors = list(settings.pop("learned_upsampling"))
        activation = settings.pop("upsampling_activation")
        network: dict[str, Any] = {"_name": "wav2vec2"}
        if factors:
            network = {
                "_name": "stochastic_sew",
                "learned_upsampling": factors,
                "upsampling_activation": activation,
            }
        return network | {"conv_feature_layers": repr([tuple(layer) for layer in layers]), **settings}

    @classmethod
    def from_fairseq(cls, settings: Mapping[str, Any], num_units: int) -> "Architecture":
        """The inverse of `to_fairseq`, for the settings in any checkpoint of `wav2vec2` or of our models over it.

        Raises `InputError` that names a setting which this network does not have.
        """
        for name, allowed in FAIRSEQ_ONLY.items():
            if settings.get(name, allowed) != allowed:
                raise InputError(f"`{name}` is {settings[name]!r}; only {allowed!r} is supported")
        names = {field.name for field in dataclasses.fields(cls)} - {"conv_layers", "num_units"}
        fields = {name: settings[name] for name in sorted(names & settings.keys())}
        if "squeeze_factor" in settings:  # our `sew`, which learns to upsample for the one factor that it has
            fields["learned_upsampling"] = [settings["squeeze_factor"]] if settings["squeeze_factor"] != 1 else []
            fields["upsampling_activation"] = "gelu"
        if settings.get("conv_feature_layers"):
            fields["conv_layers"] = parse_conv_layers(str(settings["conv_feature_layers"]))
        return cls(**fields, num_units=num_units)

    @property
    def samples_per_frame(self) -> int:
        """Audio samples from one output frame to the next: 320, or 20 ms, in the published models."""
        product = 1
        for _, _, stride in self.conv_layers:
            product *= stride
        return product

    def frames(self, samples: int) -> int:
        """Output frames of `samples` audio samples; 0 when they are fewer than one receptive field."""
        for _, kernel, stride in self.conv_layers:
            samples = (samples - kernel) // stride + 1 if samples >= kernel else 0
        return samples

    @property
    def receptive_field(self) -> int:
        """Audio samples that one output frame sees: 400, or 25 ms, in the published models."""
        samples = 1
        for _, kernel, stride in reversed(self.conv_layers):
            samples = (samples - 1) * stride + kernel
        return samples


def _checked_conv_layers(layers: Any) -> ConvLayers:
    try:
        checked = tuple((channels, kernel, stride) for channels, kernel, stride in layers)
    except (TypeError, ValueError):
        checked = ()
    if not checked or any(type(value) is not int or value < 1 for layer in checked for value in layer):
        raise InputError(
            f"architecture: `conv_layers` is {layers!r}; it must be a list of (channels, kernel, stride), "
            "each at least 1"
        )
    return checked


def parse_conv_layers(text: str) -> ConvLayers:
    """Fairseq's `conv_feature_layers`, a Python expression such as `[(512, 10, 5)] + [(512, 3, 2)] * 4`.

    fairseq passes it to `eval`, so a checkpoint could run code through it. This reads lists, tuples, whole
    numbers, `+` and `*`, and raises `InputError` on anything else.
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
                # Before the product is made: a short text can ask for any amount of memory.
                if len(items) * times > MOST_CONV_LAYERS:
                    raise ValueError(f"more than {MOST_CONV_LAYERS} layers")
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
"""Architectures by name. The students are those of "Shrinking Bigfoot" (Peng et al. 2021, section 3), SEW that of Wu et
al. 2021 with its squeeze factor of 2."""


def named_architecture(name: str) -> Architecture:
    """The architecture called `name`; `InputError` lists the known names."""
    if name not in ARCHITECTURES:
        raise InputError(f"architecture {name!r} is not known; it must be one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
