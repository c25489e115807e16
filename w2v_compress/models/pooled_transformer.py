"""`pooled_transformer`: wav2vec 2.0 at its full frame rate, with pooled queries, keys and values in each transformer
layer (Vyas et al. 2022, as far as their abstract says; the rest is our design, docs/stochastic.md).
"""

from dataclasses import dataclass, field

from fairseq.models import register_model

from ..errors import InputError
from ..nn import CompressionPoint
from ..nn.encoder import Encoder
from .pretraining import PretrainingConfig, PretrainingModel


@dataclass
class PooledTransformerConfig(PretrainingConfig):
    point: str = field(
        default="1,1,1", metadata={"help": "1,Q,K to run at unless the task chooses; 1,1:2:2,2 gives each layer its Q"}
    )


class UnsqueezedEncoder(Encoder):
    """An encoder that has no squeeze."""

    def pools_at(self, point: CompressionPoint) -> list[tuple[int, int]]:
        if point.squeeze != 1:
            raise InputError(f"compression point {point}: `pooled_transformer` squeezes no frames; S must be 1")
        return super().pools_at(point)


@register_model("pooled_transformer", dataclass=PooledTransformerConfig)
class PooledTransformer(PretrainingModel):
    """It has the parameters of stock `wav2vec2`."""

    encoder_class = UnsqueezedEncoder
