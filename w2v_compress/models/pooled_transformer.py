"""`pooled_transformer`: wav2vec 2.0 at its full frame rate, with pooled queries, keys and values in each layer.

It follows the abstract of Vyas et al. 2022; the rest is the design of this package (docs/stochastic.md).
"""

from dataclasses import dataclass, field

from fairseq.models import register_model

from ..errors import InputError
from ..nn.compression import CompressionPoint
from ..nn.encoder import Encoder
from .pretraining import PretrainingConfig, PretrainingModel


@dataclass
class PooledTransformerConfig(PretrainingConfig):
    """Settings of `pooled_transformer`."""

    point: str = field(
        default="1,1,1",
        metadata={"help": "default compression point 1,Q,K; 1,1:2:2,2 has one Q for each of three layers"},
    )


class UnsqueezedEncoder(Encoder):
    """Encoder that supports only points without squeeze."""

    def pools_per_layer(self, point: CompressionPoint) -> list[tuple[int, int]]:
        """Return the pooling factors of each layer. Raises `InputError` for a squeeze factor other than 1."""
        if point.squeeze != 1:
            raise InputError(f"compression point {point}: `pooled_transformer` has no squeeze; S must be 1")
        return super().pools_per_layer(point)


@register_model("pooled_transformer", dataclass=PooledTransformerConfig)
class PooledTransformer(PretrainingModel):
    """Pre-training model with the parameters of stock `wav2vec2`."""

    encoder_class = UnsqueezedEncoder
