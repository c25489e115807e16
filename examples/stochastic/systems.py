"""The systems that the example trains, and how they are compared."""

from dataclasses import dataclass

from w2v_compress.nn.compression import CompressionSpace
from w2v_compress.papers.stochastic import Comparison

UNCOMPRESSED = "1,1,1"
SPACE = CompressionSpace()
POINTS = tuple(str(point) for point in SPACE.all_points())
FIXED = "wav2vec 2.0"
STOCHASTIC = "stochastic"
RETROFIT = "retrofit"
REPEATED = "retrofit, frames repeated"
TRAINED_ON = "wav2vec 2.0, trained on"

UPSAMPLING = "+model.learned_upsampling=[2,3,4]"
"""For elastic models: with repeated frames, CTC can emit too few labels per second at S = 3 and 4."""


@dataclass(frozen=True)
class System:
    """A recognizer: its initialization, and the compression points of its training and evaluation."""

    name: str
    start: str
    """The pre-training in `PRETRAININGS` that it starts from; see also `CONTINUED`."""
    point: str = ""
    """The compression point of training; sampled if empty."""
    measured: tuple[str, ...] = ()
    """The compression points of evaluation; `point` if empty."""
    overrides: tuple[str, ...] = ()
    """Overrides of finetune.yaml."""

    @property
    def points(self) -> tuple[str, ...]:
        """The compression points of evaluation."""
        return self.measured or (self.point,)


def sew(squeeze: int) -> str:
    return f"SEW, S={squeeze}"


def tuned(point: str) -> str:
    return f"stochastic, tuned to {point}"


PRETRAININGS = {
    FIXED: ("model._name=pooled_transformer", f"task.point='{UNCOMPRESSED}'"),
    **{
        sew(squeeze): ("model._name=sew", f"+model.squeeze_factor={squeeze}", f"task.point='{squeeze},1,1'")
        for squeeze in (2, 3, 4)
    },
    STOCHASTIC: ("model._name=stochastic_sew", UPSAMPLING),
}
"""Overrides of pretrain.yaml for each pre-training."""
SYSTEMS = (
    System(FIXED, FIXED, UNCOMPRESSED, measured=POINTS),
    *(System(sew(squeeze), sew(squeeze), f"{squeeze},1,1") for squeeze in (2, 3, 4)),
    System(STOCHASTIC, STOCHASTIC, measured=POINTS),
    *(System(tuned(point), STOCHASTIC, point) for point in ("2,1,1", "4,1,1")),
    System(RETROFIT, FIXED, measured=POINTS, overrides=(UPSAMPLING,)),
    System(REPEATED, FIXED, measured=POINTS),
    System(TRAINED_ON, FIXED, UNCOMPRESSED),
)
CONTINUED = (RETROFIT, REPEATED, TRAINED_ON)
"""Systems that continue the fine-tuned system named by `start`, not its pre-training."""
COMPARISONS = (
    Comparison("3: marginally worse than fixed", STOCHASTIC, FIXED, UNCOMPRESSED),
    *(Comparison("3: marginally worse than fixed", STOCHASTIC, sew(s), f"{s},1,1") for s in (2, 3, 4)),
    *(Comparison("4: tuning recovers it", tuned(f"{s},1,1"), sew(s), f"{s},1,1") for s in (2, 4)),
    *(Comparison("4: tuning gains", tuned(f"{s},1,1"), STOCHASTIC, f"{s},1,1") for s in (2, 4)),
    Comparison("retrofit keeps the full model", RETROFIT, TRAINED_ON, UNCOMPRESSED),
    *(Comparison("retrofit makes points usable", RETROFIT, FIXED, point) for point in ("2,1,1", "1,2,2", "4,1,1")),
    *(Comparison("learned upsampling helps", RETROFIT, REPEATED, f"{s},1,1") for s in (2, 3, 4)),
    *(Comparison("retrofit against stochastic", RETROFIT, STOCHASTIC, point) for point in ("2,1,1", "4,1,1")),
)
