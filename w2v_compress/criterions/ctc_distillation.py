"""`ctc_distillation`: the student learns the teacher's CTC posteriors.

"Shrinking Bigfoot" (Peng et al. 2021, section 3):

    loss = kl_weight * T^2 * KL(teacher || student) + features_penalty_weight * mean(features^2) + ctc_weight * CTC

with the posteriors softened by the temperature T. Every term is a mean over the valid frames of all ranks (the
released code also counts padded frames and divides by the batch size only).
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.criterions import register_criterion
from fairseq.criterions.ctc import CtcCriterion, CtcCriterionConfig
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from torch import Tensor

from ..errors import InputError
from ..models.student_ctc import check_agreement, valid_lengths
from ..nn import AcousticModel
from ..runtime.fairseq_checkpoint import read_checkpoint


@dataclass
class CtcDistillationConfig(CtcCriterionConfig):
    teacher_checkpoint: str = field(
        default="", metadata={"help": "fine-tuned CTC checkpoint to learn from; not read when kl_weight is 0"}
    )
    temperature: float = field(default=1.0, metadata={"help": "T, softens both posteriors; above 0"})
    kl_weight: float = field(default=1.0, metadata={"help": "weight of T^2 * KL(teacher || student)"})
    features_penalty_weight: float = field(
        default=1.0, metadata={"help": "weight of the mean squared convolutional feature"}
    )
    ctc_weight: float = field(default=0.0, metadata={"help": "weight of the CTC loss on the transcripts"})


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(teacher || student) summed over frames: two (frames, units) -> a scalar, computed in fp32."""
    student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(student, teacher, reduction="sum", log_target=True)


class _Recorded:
    """A model that keeps its last output, so that the stock CTC criterion and the distillation share one pass."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.output: dict[str, Any] = {}

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        self.output = self.model(**inputs)
        return self.output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


@register_criterion("ctc_distillation", dataclass=CtcDistillationConfig)
class CtcDistillation(CtcCriterion):
    """The stock CTC criterion, which also reports WER in validation, and the teacher's posteriors."""

    def __init__(self, cfg: CtcDistillationConfig, task: FairseqTask) -> None:
        super().__init__(cfg, task)
        if not cfg.temperature > 0 or not math.isfinite(cfg.temperature):
            raise InputError(f"criterion.temperature is {cfg.temperature}; it must be above 0")
        weights = {name: getattr(cfg, name) for name in ("kl_weight", "features_penalty_weight", "ctc_weight")}
        for name, weight in weights.items():
            if not weight >= 0 or not math.isfinite(weight):
                raise InputError(f"criterion.{name} is {weight}; it must be 0 or above")
        if not any(weights.values()):
            raise InputError("criterion: kl_weight, features_penalty_weight and ctc_weight are all 0")
        self.cfg = cfg
        # In a list, so that it is no submodule: neither saved in checkpoints nor wrapped for distributed training.
        self._teacher = [self._load_teacher(task)] if cfg.kl_weight else []

    def _load_teacher(self, task: FairseqTask) -> AcousticModel:
        if not self.cfg.teacher_checkpoint:
            raise InputError("criterion.teacher_checkpoint is empty; it must name a fine-tuned CTC checkpoint")
        teacher = read_checkpoint(Path(self.cfg.teacher_checkpoint)).model
        check_agreement(teacher.header, task, self.cfg.teacher_checkpoint)
        return teacher.build()

    @torch.inference_mode()
    def teacher_logits(self, source: Tensor, padding_mask: Tensor | None) -> Tensor:
        """(batch, samples) -> (batch, frames, units) of the frozen teacher, in the precision of `source`."""
        (teacher,) = self._teacher
        if next(teacher.parameters()).dtype != source.dtype or next(teacher.parameters()).device != source.device:
            teacher.to(source)
        return teacher(source, valid_lengths(padding_mask))[0]

    def _kl(self, logits: Tensor, inputs: dict[str, Any], valid: Tensor) -> Tensor:
        """Student logits (batch, frames, units), valid frames (batch, frames) -> the KL term, summed over those."""
        teacher = self.teacher_logits(inputs["source"], inputs.get("padding_mask"))
        if teacher.shape != logits.shape:
            raise InputError(
                f"{self.cfg.teacher_checkpoint}: the teacher gives {teacher.shape[1]} frames where the student gives "
                f"{logits.shape[1]}; their frame rates must be equal"
            )
        # A copy made outside inference mode is an ordinary tensor, which autograd may keep.
        return kl_divergence(logits[valid], teacher[valid].clone(), self.cfg.temperature)

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True, **_: Any) -> tuple[Tensor, int, dict]:
        """Loss summed over the valid frames, the number of these frames, and what to log."""
        recorded = _Recorded(model)
        ctc, _, logging_output = super().forward(recorded, sample, reduce)
        output = recorded.output
        logits = output["encoder_out"].transpose(0, 1)  # (batch, frames, units)
        if output["padding_mask"] is None:
            valid = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
        else:
            valid = ~output["padding_mask"]
        terms = {"features_penalty": output["features"][valid].float().square().mean(1).sum(), "ctc": ctc}
        if self._teacher:
            terms["kl"] = self._kl(logits, sample["net_input"], valid)
        weights = {name: getattr(self.cfg, f"{name}_weight") for name in terms}
        # A term without weight is left out, not multiplied by 0: an infinite CTC loss would make it NaN.
        loss = torch.stack([weights[name] * term for name, term in terms.items() if weights[name]]).sum()
        frames = int(valid.sum())
        logging_output |= {name: term.item() for name, term in terms.items()}
        logging_output |= {"loss": loss.item(), "sample_size": frames}
        return loss, frames, logging_output

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """The stock CTC metrics, and each term as a mean over frames by name."""
        CtcCriterion.reduce_metrics(logging_outputs)
        frames = sum(log.get("sample_size", 0) for log in logging_outputs)
        for name in ("kl", "features_penalty", "ctc"):
            total = sum(log.get(name, 0) for log in logging_outputs)
            metrics.log_scalar(name, total / max(frames, 1), frames, round=4)
