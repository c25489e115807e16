"""`compressed_finetuning`: fairseq's `audio_finetuning` at sampled compression points (Vyas et al. 2022), or at one."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq.logging import metrics
from fairseq.tasks import register_task
from fairseq.tasks.audio_finetuning import AudioFinetuningConfig, AudioFinetuningTask
from torch import Tensor

from ..data.manifest_check import check_manifest
from ..data.units import read_symbols
from ..distillation.losses import kl_divergence
from ..distillation.recording import RecordingModel
from ..errors import InputError
from .compression import CompressionConfig, CompressionTask, Criterion


@dataclass
class CompressedFinetuningConfig(CompressionConfig, AudioFinetuningConfig):
    """Settings of `audio_finetuning`, of `CompressionConfig`, and of in-place distillation."""

    inplace_distillation_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of KL(largest point || other point) in each batch, 0 or above; needs task.sandwich above 0"
        },
    )


class InplaceDistillation:
    """Criterion that distills the first, largest point of a batch into all others.

    This is in-place distillation ("Universally Slimmable Networks", Yu and Huang 2019, section 3.3): all points but
    the first get the KL divergence from the posteriors of the first, which receive no gradient from it. The divergence
    is a mean over valid frames, scaled by the sample size like the loss of the criterion.
    """

    def __init__(self, criterion: Criterion, weight: float) -> None:
        self.criterion = criterion
        self.weight = weight
        self.targets: Tensor | None = None
        """Logits of the first point, (frames, units)."""

    def __call__(self, model: Any, sample: dict[str, Any]) -> tuple[Tensor, Any, dict[str, Any]]:
        """Return the loss, sample size and values to log of the next point of the batch."""
        recording = RecordingModel(model)
        loss, sample_size, logging_output = self.criterion(recording, sample)
        padded = recording.output["padding_mask"]
        logits = recording.logits.flatten(0, 1) if padded is None else recording.logits[~padded]
        if self.targets is None:
            self.targets = logits.detach()
            return loss, sample_size, logging_output
        divergence = kl_divergence(logits, self.targets, temperature=1.0)
        logged = {"inplace_kl": divergence.sum().item(), "inplace_frames": len(divergence)}
        return loss + self.weight * sample_size * divergence.mean(), sample_size, logging_output | logged


@register_task("compressed_finetuning", dataclass=CompressedFinetuningConfig)
class CompressedFinetuningTask(CompressionTask, AudioFinetuningTask):
    """Fine-tuning with the criterion `ctc`, or with `ctc_distillation`, whose teacher is another network."""

    models = "compressed_ctc or student_ctc"

    def __init__(self, cfg: CompressedFinetuningConfig) -> None:
        super().__init__(cfg)
        weight = cfg.inplace_distillation_weight
        if not 0 <= weight < math.inf:
            raise InputError(f"task.inplace_distillation_weight is {weight}; it must be 0 or above")
        if weight and not cfg.sandwich:
            raise InputError(
                f"task.inplace_distillation_weight is {weight}, but the largest point is in every update only "
                "with task.sandwich; that must be above 0"
            )

    def check_subset(self, subset: str) -> None:
        """Raise `InputError` for faults in the files of a manifest, labels included."""
        symbols = self.target_dictionary.symbols[self.target_dictionary.nspecial :]
        check_manifest(Path(self.cfg.data), subset, self.cfg.labels, symbols)

    def load_target_dictionary(self) -> Any:
        """Load the dictionary as fairseq does. Raises `InputError` if it is missing or malformed."""
        read_symbols(Path(self.cfg.target_dictionary or self.cfg.data, f"dict.{self.cfg.labels}.txt"))
        return super().load_target_dictionary()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint. Raises `InputError` if its dictionary is not that of the data."""
        trained = state_dict.get("target_dictionary")
        if trained is not None and trained.symbols != self.target_dictionary.symbols:
            raise InputError(
                f"task.data={self.cfg.data}: dict.{self.cfg.labels}.txt differs from the dictionary of the checkpoint; "
                "they must be equal"
            )
        super().load_state_dict(state_dict)

    def objective(self, criterion: Criterion, points: int) -> Criterion:
        """Return the objective of one of `points` points, with in-place distillation if it has a weight."""
        if self.cfg.inplace_distillation_weight:
            criterion = InplaceDistillation(criterion, self.cfg.inplace_distillation_weight)
        return super().objective(criterion, points)

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Log the metrics of `CompressionTask`, and `inplace_kl` in nats per frame, averaged over the students."""
        super().reduce_metrics(logging_outputs, criterion)
        frames = sum(log.get("inplace_frames", 0) for log in logging_outputs)
        if frames:
            total = sum(log["inplace_kl"] for log in logging_outputs)
            metrics.log_scalar("inplace_kl", total / frames, frames, round=4)
