"""`stochastic_sew`: wav2vec 2.0 that runs at any compression point, pre-trained at a random point in each update.

It follows the abstract of "On-demand compute reduction with stochastic wav2vec 2.0" (Vyas et al. 2022); the rest is
the design of this package (docs/stochastic.md).
"""

from dataclasses import dataclass, field

from fairseq.dataclass import ChoiceEnum
from fairseq.models import register_model

from .pretraining import PretrainingConfig, PretrainingModel

UPSAMPLING_ACTIVATION_CHOICES = ChoiceEnum(["none", "gelu"])


@dataclass
class StochasticSewConfig(PretrainingConfig):
    """Settings of `stochastic_sew`."""

    point: str = field(default="1,1,1", metadata={"help": "default compression point S,Q,K, such as 2,1,1"})
    learned_upsampling: list[int] = field(
        default_factory=list,
        metadata={"help": "squeeze factors, from 2 to 16, with learned upsampling; empty: frames are repeated"},
    )
    upsampling_activation: UPSAMPLING_ACTIVATION_CHOICES = field(  # type: ignore[valid-type]
        default="none",
        metadata={"help": "activation after learned upsampling: gelu, as in SEW, or none, which starts as repetition"},
    )
    centered_positions: bool = field(
        default=False,
        metadata={"help": "centre the window of the positional convolution on the frames that are squeezed together"},
    )


@register_model("stochastic_sew", dataclass=StochasticSewConfig)
class StochasticSew(PretrainingModel):
    """Pre-training model that shares all parameters between points; without learned upsampling they equal stock's."""
