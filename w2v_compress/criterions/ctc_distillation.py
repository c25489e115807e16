"""`ctc_distillation`: the student learns the teacher's CTC posteriors, and what else its weights ask for.

"Shrinking Bigfoot" (Peng et al. 2021, section 3):

    loss = kl_weight * T^2 * KL(teacher || student) + features_penalty_weight * mean(features^2)

with the posteriors softened by the temperature T; and beyond the paper the CTC loss on the transcripts, the cosine
distance of the logits, and the distance of hidden states. The terms themselves are in `nn/distillation.py`.

Every term is a mean over the valid frames of all ranks. `reduction: released` is that of the paper's code instead:
the KL term summed over frames, padded ones too, and divided by the number of utterances (`batchmean`); the other
means over all frames of the batch.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.ctc import CtcCriterion, CtcCriterionConfig
from fairseq.dataclass import ChoiceEnum
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from ..distillation.losses import cosine_distance, hidden_distance, hidden_projections, kl_divergence, layer_pairs
from ..distillation.recorded import Recorded
from ..distillation.teacher import PRECISIONS, Teacher
from ..errors import InputError
from ..models.student_ctc import check_agreement

REDUCTIONS = ("valid_frames", "released")
TERMS = ("kl", "features_penalty", "ctc", "cosine", "hidden")
FROM_TEACHER = ("kl", "cosine", "hidden")
REDUCTION_CHOICES = ChoiceEnum(REDUCTIONS)
PRECISION_CHOICES = ChoiceEnum(PRECISIONS)
PROJECTION_CHOICES = ChoiceEnum(["auto", "always"])


@dataclass
class CtcDistillationConfig(CtcCriterionConfig):
    teacher_checkpoint: str = field(
        default="",
        metadata={
            "help": "fine-tuned CTC checkpoint (or .safetensors) to learn from; not read when nothing is asked of it"
        },
    )
    temperature: float = field(default=1.0, metadata={"help": "T, softens both posteriors; above 0"})
    kl_weight: float = field(default=1.0, metadata={"help": "weight of T^2 * KL(teacher || student)"})
    features_penalty_weight: float = field(
        default=1.0, metadata={"help": "weight of the mean squared convolutional feature"}
    )
    ctc_weight: float = field(default=0.0, metadata={"help": "weight of the CTC loss on the transcripts"})
    cosine_weight: float = field(default=0.0, metadata={"help": "weight of 1 - cosine of the logits"})
    hidden_weight: float = field(
        default=0.0, metadata={"help": "weight of the L1 + cosine distance of hidden states, mean over the layer pairs"}
    )
    hidden_cosine_weight: float = field(default=1.0, metadata={"help": "weight of the cosine within that distance"})
    hidden_normalize: bool = field(
        default=True, metadata={"help": "compare states of zero mean and unit variance, frame by frame"}
    )
    hidden_layers: list[str] = field(
        default_factory=list,
        metadata={"help": 'layers to compare, "teacher:student" from 1; empty: spread evenly, the last with the last'},
    )
    hidden_projection: PROJECTION_CHOICES = field(  # type: ignore[valid-type]
        default="auto",
        metadata={"help": "project the student's hidden states to the teacher's: between unequal widths, or always"},
    )
    reduction: REDUCTION_CHOICES = field(  # type: ignore[valid-type]
        default="valid_frames", metadata={"help": "mean over valid frames, or as in the paper's released code"}
    )
    teacher_precision: PRECISION_CHOICES = field(  # type: ignore[valid-type]
        default="auto",
        metadata={"help": "auto: that of the run if it is a half precision, on a GPU bf16 or fp16, on a CPU fp32"},
    )
    teacher_cache: str = field(
        default="", metadata={"help": "folder to keep the teacher's logits in, for runs without augmentation"}
    )


def check_settings(cfg: CtcDistillationConfig) -> None:
    """Raise `InputError` that names the field which is out of range, or does not go with another."""
    if not cfg.temperature > 0 or not math.isfinite(cfg.temperature):
        raise InputError(f"criterion.temperature is {cfg.temperature}; it must be above 0")
    weights = [f"{term}_weight" for term in TERMS]
    for name in (*weights, "hidden_cosine_weight"):
        weight = getattr(cfg, name)
        if not weight >= 0 or not math.isfinite(weight):
            raise InputError(f"criterion.{name} is {weight}; it must be 0 or above")
    if not any(getattr(cfg, name) for name in weights):
        raise InputError(f"criterion: {', '.join(weights)} are all 0")
    if cfg.teacher_cache and cfg.hidden_weight:
        raise InputError("criterion.teacher_cache holds no hidden states; hidden_weight must be 0 with it")
    if cfg.teacher_cache and cfg.reduction == "released":
        raise InputError("criterion.teacher_cache holds no padded frames; reduction must be valid_frames with it")


@register_criterion("ctc_distillation", dataclass=CtcDistillationConfig)
class CtcDistillation(CtcCriterion):
    """The stock CTC criterion, which also reports WER in validation, and what the teacher says.

    Its only parameters are the projections of hidden states, if there are any: fairseq trains and saves them apart
    from the model.
    """

    def __init__(self, cfg: CtcDistillationConfig, task: FairseqTask) -> None:
        super().__init__(cfg, task)
        check_settings(cfg)
        self.cfg = cfg
        self.weights = {term: getattr(cfg, f"{term}_weight") for term in TERMS}
        # The teacher is no submodule: neither saved in checkpoints nor wrapped for distributed training.
        self.teacher = self._load_teacher(task) if any(self.weights[term] for term in FROM_TEACHER) else None
        self.pairs: list[tuple[int, int]] = []
        self.projections = nn.ModuleList()
        if self.teacher is not None and self.weights["hidden"]:
            self._prepare_hidden(self.teacher, task)

    def _load_teacher(self, task: FairseqTask) -> Teacher:
        if not self.cfg.teacher_checkpoint:
            raise InputError("criterion.teacher_checkpoint is empty; it must name a fine-tuned CTC checkpoint")
        cache = Path(self.cfg.teacher_cache) if self.cfg.teacher_cache else None
        path = Path(self.cfg.teacher_checkpoint)
        teacher = Teacher(path, precision=str(self.cfg.teacher_precision), cache=cache)
        check_agreement(teacher.header, task, self.cfg.teacher_checkpoint)
        return teacher

    def _prepare_hidden(self, teacher: Teacher, task: FairseqTask) -> None:
        student = getattr(task, "student_architecture", None)
        if student is None:
            raise InputError("criterion.hidden_weight needs hidden states, which only model=student_ctc gives")
        taught = teacher.header.architecture
        self.pairs = layer_pairs(self.cfg.hidden_layers, taught.encoder_layers, student.encoder_layers)
        self.projections = hidden_projections(
            len(self.pairs),
            student.encoder_embed_dim,
            taught.encoder_embed_dim,
            always=self.cfg.hidden_projection == "always",
        )

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True, **_: Any) -> tuple[Tensor, int, dict]:
        """Loss summed over the valid frames (with `reduction: released`, over utterances), their number, and what to
        log.
        """
        recorded = Recorded(model, **({"keep_hidden": True} if self.pairs else {}))
        ctc, _, logging_output = super().forward(recorded, sample, reduce)
        logits, padded = recorded.logits, recorded.output["padding_mask"]
        counted = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
        if padded is not None and self.cfg.reduction == "valid_frames":
            counted = ~padded
        terms = {"ctc": ctc, "features_penalty": self._mean_features(recorded.output["features"], counted)}
        terms |= self._from_teacher(recorded, sample["net_input"], counted)
        # A term without weight is left out, not multiplied by 0: an infinite CTC loss would make it NaN.
        loss = torch.stack([self.weights[name] * term for name, term in terms.items() if self.weights[name]]).sum()
        size = int(counted.sum()) if self.cfg.reduction == "valid_frames" else len(logits)
        logging_output |= {name: term.item() for name, term in terms.items()}
        logging_output |= {"loss": loss.item(), "sample_size": size}
        return loss, size, logging_output

    def _mean_features(self, features: Tensor, counted: Tensor) -> Tensor:
        return self._reduced(features[counted].float().square().mean(1), len(features))

    def _reduced(self, values: Tensor, batch: int) -> Tensor:
        """(frames,) -> their sum, or, in the released reduction, their mean for each of `batch` utterances."""
        return values.sum() if self.cfg.reduction == "valid_frames" else values.mean() * batch

    def _from_teacher(self, recorded: Recorded, inputs: dict[str, Any], counted: Tensor) -> dict[str, Tensor]:
        """The terms that compare the student with the teacher, over the frames `counted` (batch, frames)."""
        if self.teacher is None:
            return {}
        source, padding_mask = inputs["source"], inputs.get("padding_mask")
        hidden: list[Tensor] = []
        if self.pairs:
            output = self.teacher.run(source, padding_mask, keep_hidden=True)
            taught_logits, hidden = output.logits, output.hidden
        else:
            taught_logits = self.teacher.logits(source, padding_mask)
        if taught_logits.shape != recorded.logits.shape:
            raise InputError(
                f"{self.cfg.teacher_checkpoint}: the teacher gives {taught_logits.shape[1]} frames where the student "
                f"gives {recorded.logits.shape[1]}; their frame rates must be equal"
            )
        logits, taught = recorded.logits[counted], taught_logits[counted]
        terms = {}
        if self.weights["kl"]:
            # Summed in both reductions: `batchmean` divides by the batch, not by its frames.
            terms["kl"] = kl_divergence(logits, taught, self.cfg.temperature).sum()
        if self.weights["cosine"]:
            terms["cosine"] = self._reduced(cosine_distance(logits, taught), len(counted))
        if self.pairs:
            terms["hidden"] = self._hidden(recorded.output["hidden"], hidden, counted)
        return terms

    def _hidden(self, student: list[Tensor], teacher: list[Tensor], counted: Tensor) -> Tensor:
        """Mean over the layer pairs of the distance of hidden states (batch, frames, channels)."""
        distances = [
            hidden_distance(
                projection(student[low - 1][counted]),
                teacher[high - 1][counted],
                self.cfg.hidden_cosine_weight,
                normalize=self.cfg.hidden_normalize,
            )
            for (high, low), projection in zip(self.pairs, self.projections, strict=True)
        ]
        return self._reduced(torch.stack(distances).mean(0), len(counted))

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """The stock CTC metrics, and each term by name, before its weight, as a mean."""
        CtcCriterion.reduce_metrics(logging_outputs)
        size = sum(log.get("sample_size", 0) for log in logging_outputs)
        for name in TERMS:
            if any(name in log for log in logging_outputs):
                total = sum(log.get(name, 0) for log in logging_outputs)
                metrics.log_scalar(name, total / max(size, 1), size, round=4)
