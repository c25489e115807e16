"""`sew`: wav2vec 2.0 with a compact feature extractor and a fixed squeeze factor: the baseline of elastic compression
("Performance-Efficiency Trade-offs in Unsupervised Pre-training for Speech Recognition", Wu et al. 2021).

The defaults are SEW-small; tiny has `encoder_embed_dim` 512, `encoder_ffn_embed_dim` 2048 and 8 heads, mid 24 layers.
"""

from dataclasses import dataclass, field

from fairseq.models import register_model

from ..nn.architecture import SEW_CONV_LAYERS
from .pretraining import PretrainingConfig, PretrainingModel


@dataclass
class SewConfig(PretrainingConfig):
    squeeze_factor: int = field(default=2, metadata={"help": "frames that the encoder takes as one"})
    mlp_heads: bool = True
    conv_feature_layers: str = repr(list(SEW_CONV_LAYERS))
    conv_pos: int = 31
    final_dim: int = 256


@register_model("sew", dataclass=SewConfig)
class Sew(PretrainingModel):
    """Upsampling is learned for the one squeeze factor; the network has no others but 1."""
