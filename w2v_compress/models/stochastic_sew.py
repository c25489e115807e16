"""`stochastic_sew`: wav2vec 2.0 that runs at any compression point, to be pre-trained with the point sampled anew for
each update ("On-demand compute reduction with stochastic wav2vec 2.0", Vyas et al. 2022, as far as its abstract says;
the rest is our design, docs/stochastic.md).
"""

from dataclasses import dataclass, field

from fairseq.dataclass import ChoiceEnum
from fairseq.models import register_model

from .pretraining import PretrainingConfig, PretrainingModel

UPSAMPLING_ACTIVATION_CHOICES = ChoiceEnum(["none", "gelu"])


@dataclass
class StochasticSewConfig(PretrainingConfig):
    point: str = field(default="1,1,1", metadata={"help": "S,Q,K to run at unless the task chooses"})
    learned_upsampling: list[int] = field(
        default_factory=list,
        metadata={"help": "squeeze factors to learn upsampling for; empty: frames are repeated"},
    )
    upsampling_activation: UPSAMPLING_ACTIVATION_CHOICES = field(  # type: ignore[valid-type]
        default="none", metadata={"help": "after it: gelu as in SEW, or none: a linear map that starts as repetition"}
    )


@register_model("stochastic_sew", dataclass=StochasticSewConfig)
class StochasticSew(PretrainingModel):
    """With repeated frames it has the parameters of stock `wav2vec2`, and each serves every point."""
