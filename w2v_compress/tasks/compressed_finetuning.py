"""`compressed_finetuning`: fairseq's `audio_finetuning` at sampled points of compression (Vyas et al. 2022), or at one
point that a network trained for many is to serve at.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from fairseq.logging import metrics
from fairseq.tasks import register_task
from fairseq.tasks.audio_finetuning import AudioFinetuningConfig, AudioFinetuningTask
from torch import Tensor

from ..distillation.losses import kl_divergence
from ..distillation.recorded import Recorded
from ..errors import InputError
from .compression import CompressionConfig, CompressionTask, Criterion


@dataclass
class CompressedFinetuningConfig(CompressionConfig, AudioFinetuningConfig):
    """The stock task's fields, those of `CompressionConfig`, and one for what points learn from each other."""

    inplace_distillation_weight: float = field(
        default=0.0,
        metadata={"help": "weight of KL(largest point || other point) of an update's batch; needs task.sandwich"},
    )


class InplaceDistillation:
    """The criterion, and for every point of one batch but the first the divergence from what the first said there
    ("Universally Slimmable Networks", Yu and Huang 2019, section 3.3).

    The divergence is a mean over valid frames; it counts as the loss of one token or sentence does, whichever the
    criterion's loss is a mean of. No gradient reaches the first point through it.
    """

    def __init__(self, criterion: Criterion, weight: float) -> None:
        self.criterion = criterion
        self.weight = weight
        self.taught: Tensor | None = None
        """(frames, units), the first point's logits"""

    def __call__(self, model: Any, sample: dict[str, Any]) -> tuple[Tensor, Any, dict[str, Any]]:
        recorded = Recorded(model)
        loss, sample_size, logging_output = self.criterion(recorded, sample)
        padded = recorded.output["padding_mask"]
        logits = recorded.logits.flatten(0, 1) if padded is None else recorded.logits[~padded]
        if self.taught is None:
            self.taught = logits.detach()
            return loss, sample_size, logging_output
        divergence = kl_divergence(logits, self.taught, temperature=1.0)
        logged = {"inplace_kl": divergence.sum().item(), "inplace_frames": len(divergence)}
        return loss + self.weight * sample_size * divergence.mean(), sample_size, logging_output | logged


@register_task("compressed_finetuning", dataclass=CompressedFinetuningConfig)
class CompressedFinetuningTask(CompressionTask, AudioFinetuningTask):
    """For the criterions `ctc`, and `ctc_distillation`, whose teacher is another network, at the point it was made
    for.
    """

    models = "compressed_ctc or student_ctc"

    def __init__(self, cfg: CompressedFinetuningConfig) -> None:
        super().__init__(cfg)
        weight = cfg.inplace_distillation_weight
        if not 0 <= weight < math.inf:
            raise InputError(f"task.inplace_distillation_weight is {weight}; it must be 0 or above")
        if weight and not cfg.sandwich:
            raise InputError(
                f"task.inplace_distillation_weight is {weight}, but the largest point, which teaches, is in every "
                "update with task.sandwich alone; that must be above 0"
            )

    def objective(self, criterion: Criterion, points: int) -> Criterion:
        """The share of the mean loss, and what the largest point of the batch teaches the others."""
        if self.cfg.inplace_distillation_weight:
            criterion = InplaceDistillation(criterion, self.cfg.inplace_distillation_weight)
        return super().objective(criterion, points)

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Those of `CompressionTask`, and `inplace_kl`: nats a frame, mean over the points that were taught."""
        super().reduce_metrics(logging_outputs, criterion)
        frames = sum(log.get("inplace_frames", 0) for log in logging_outputs)
        if frames:
            total = sum(log["inplace_kl"] for log in logging_outputs)
            metrics.log_scalar("inplace_kl", total / frames, frames, round=4)
