"""`sew`: wav2vec 2.0 with a compact feature extractor and a fixed squeeze factor, the baseline of elastic compression.

It is described in "Performance-Efficiency Trade-offs in Unsupervised Pre-training for Speech Recognition" (Wu et al.
2021). The defaults are SEW-small. SEW-tiny has `encoder_embed_dim` 512, `encoder_ffn_embed_dim` 2048 and 8 heads;
SEW-mid has 24 layers.
"""

from dataclasses import dataclass, field

from fairseq.models import register_model

from ..nn.architecture import SEW_CONV_LAYERS
from .pretraining import PretrainingConfig, PretrainingModel


@dataclass
class SewConfig(PretrainingConfig):
    """Settings of `sew`; the defaults are those of SEW-small (Wu et al. 2021, table 1)."""

    squeeze_factor: int = field(
        default=2, metadata={"help": "number of frames that the encoder merges into one, 1 to 16"}
    )
    mlp_heads: bool = field(
        default=True, metadata={"help": "use heads of two layers with batch norm instead of linear maps"}
    )
    conv_feature_layers: str = field(
        default=repr(list(SEW_CONV_LAYERS)),
        metadata={"help": "convolutions of the feature extractor, as a list of (channels, kernel, stride)"},
    )
    conv_pos: int = field(default=31, metadata={"help": "kernel of the positional convolution in frames"})
    final_dim: int = field(default=256, metadata={"help": "width of projections and targets in channels"})


@register_model("sew", dataclass=SewConfig)
class Sew(PretrainingModel):
    """Pre-training model with learned upsampling for one squeeze factor. It also supports the factor 1."""
