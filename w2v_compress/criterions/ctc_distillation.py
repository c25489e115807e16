"""`ctc_distillation`: distill the CTC posteriors of a teacher, with optional further losses.

The loss of "Shrinking Bigfoot" (Peng et al. 2021, section 3) is

    loss = kl_weight * T^2 * KL(teacher || student) + features_penalty_weight * mean(features^2)

with posteriors at temperature T. Optional terms beyond the paper are the CTC loss on the transcripts, the cosine
distance of the logits, and the distance of hidden states; see `distillation/losses.py`.

Each term is a mean over the valid frames of all ranks. With `reduction: released`, as in the code released with the
paper, the KL term is summed over all frames, including padding, and divided by the number of utterances
(`batchmean`), and the other terms are means over all frames of the batch.
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
from ..distillation.recording import RecordingModel
from ..distillation.teacher import PRECISIONS, Teacher
from ..errors import InputError
from ..models.ctc import check_units_and_normalization

REDUCTIONS = ("valid_frames", "released")
TERMS = ("kl", "features_penalty", "ctc", "cosine", "hidden")
FROM_TEACHER = ("kl", "cosine", "hidden")
REDUCTION_CHOICES = ChoiceEnum(REDUCTIONS)
PRECISION_CHOICES = ChoiceEnum(PRECISIONS)
PROJECTION_CHOICES = ChoiceEnum(["auto", "always"])


@dataclass
class CtcDistillationConfig(CtcCriterionConfig):
    """Settings of `ctc_distillation`."""

    teacher_checkpoint: str = field(
        default="",
        metadata={
            "help": "path of the teacher, a fine-tuned CTC checkpoint (.pt or .safetensors); not read if kl_weight, "
            "cosine_weight and hidden_weight are 0"
        },
    )
    temperature: float = field(
        default=1.0, metadata={"help": "temperature T of the posteriors of teacher and student, above 0"}
    )
    kl_weight: float = field(default=1.0, metadata={"help": "weight of T^2 * KL(teacher || student), 0 or above"})
    features_penalty_weight: float = field(
        default=1.0, metadata={"help": "weight of the mean square of the convolutional features, 0 or above"}
    )
    ctc_weight: float = field(default=0.0, metadata={"help": "weight of the CTC loss on the transcripts, 0 or above"})
    cosine_weight: float = field(
        default=0.0, metadata={"help": "weight of the cosine distance of the logits, 0 or above"}
    )
    hidden_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of the L1 + cosine distance of hidden states, averaged over hidden_layers; 0 or above"
        },
    )
    hidden_cosine_weight: float = field(
        default=1.0,
        metadata={"help": "weight of the cosine distance relative to L1 in the distance of hidden states, 0 or above"},
    )
    hidden_normalize: bool = field(
        default=True,
        metadata={"help": "whether to normalize each frame of hidden states to zero mean and unit variance"},
    )
    hidden_layers: list[str] = field(
        default_factory=list,
        metadata={
            "help": 'pairs "teacher:student" of layers to compare, counted from 1, such as "8:4"; empty: all evenly'
        },
    )
    hidden_projection: PROJECTION_CHOICES = field(  # type: ignore[valid-type]
        default="auto",
        metadata={
            "help": "linear map of hidden states from the student's to the teacher's width: auto (if they differ) or "
            "always"
        },
    )
    reduction: REDUCTION_CHOICES = field(  # type: ignore[valid-type]
        default="valid_frames",
        metadata={"help": "valid_frames: mean over valid frames; released: as in the code of Peng et al. 2021"},
    )
    teacher_precision: PRECISION_CHOICES = field(  # type: ignore[valid-type]
        default="auto",
        metadata={
            "help": "precision of the teacher: fp32, bf16, fp16 or auto, which is that of a half-precision run, else "
            "the fastest on a GPU and fp32 on a CPU"
        },
    )
    teacher_cache: str = field(
        default="",
        metadata={"help": "folder for cached logits of the teacher, useful without augmentation; empty: no cache"},
    )


def check_settings(cfg: CtcDistillationConfig) -> None:
    """Raise `InputError`, with the field, for a value out of range or a combination that is not allowed."""
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
        raise InputError("criterion.teacher_cache has no hidden states; hidden_weight must be 0 with it")
    if cfg.teacher_cache and cfg.reduction == "released":
        raise InputError("criterion.teacher_cache has no padded frames; reduction must be valid_frames with it")


@register_criterion("ctc_distillation", dataclass=CtcDistillationConfig)
class CtcDistillation(CtcCriterion):
    """The stock CTC criterion, which reports WER in validation, plus the distillation losses.

    Its only parameters are the projections of hidden states, which fairseq trains and saves separately from the model.
    """

    def __init__(self, cfg: CtcDistillationConfig, task: FairseqTask) -> None:
        super().__init__(cfg, task)
        check_settings(cfg)
        self.cfg = cfg
        self.weights = {term: getattr(cfg, f"{term}_weight") for term in TERMS}
        # The teacher is not a submodule, so it is neither saved in checkpoints nor wrapped for distributed training.
        self.teacher = self._load_teacher(task) if any(self.weights[term] for term in FROM_TEACHER) else None
        self.pairs: list[tuple[int, int]] = []
        self.projections = nn.ModuleList()
        if self.teacher is not None and self.weights["hidden"]:
            self._build_projections(self.teacher, task)

    def _load_teacher(self, task: FairseqTask) -> Teacher:
        if not self.cfg.teacher_checkpoint:
            raise InputError("criterion.teacher_checkpoint is empty; it must name a fine-tuned CTC checkpoint")
        cache = Path(self.cfg.teacher_cache) if self.cfg.teacher_cache else None
        path = Path(self.cfg.teacher_checkpoint)
        teacher = Teacher(path, precision=str(self.cfg.teacher_precision), cache=cache)
        check_units_and_normalization(teacher.header, task, self.cfg.teacher_checkpoint)
        return teacher

    def _build_projections(self, teacher: Teacher, task: FairseqTask) -> None:
        student = getattr(task, "student_architecture", None)
        if student is None:
            raise InputError("criterion.hidden_weight needs hidden states; model must be student_ctc or compressed_ctc")
        architecture = teacher.header.architecture
        self.pairs = layer_pairs(self.cfg.hidden_layers, architecture.encoder_layers, student.encoder_layers)
        self.projections = hidden_projections(
            len(self.pairs),
            student.encoder_embed_dim,
            architecture.encoder_embed_dim,
            always=self.cfg.hidden_projection == "always",
        )

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True, **_: Any) -> tuple[Tensor, int, dict]:
        """Return the summed loss, the sample size and the values to log.

        The sum and the sample size are over valid frames or, with `reduction: released`, over utterances.
        """
        recording = RecordingModel(model, **({"return_hidden": True} if self.pairs else {}))
        ctc, _, logging_output = super().forward(recording, sample, reduce)
        logits, padded = recording.logits, recording.output["padding_mask"]
        counted = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
        if padded is not None and self.cfg.reduction == "valid_frames":
            counted = ~padded
        terms = {"ctc": ctc, "features_penalty": self._features_penalty(recording.output["features"], counted)}
        terms |= self._teacher_terms(recording, sample["net_input"], counted)
        # Terms of weight 0 are skipped, because 0 times an infinite CTC loss would be NaN.
        loss = torch.stack([self.weights[name] * term for name, term in terms.items() if self.weights[name]]).sum()
        size = int(counted.sum()) if self.cfg.reduction == "valid_frames" else len(logits)
        logging_output |= {name: term.item() for name, term in terms.items()}
        logging_output |= {"loss": loss.item(), "sample_size": size}
        return loss, size, logging_output

    def _features_penalty(self, features: Tensor, counted: Tensor) -> Tensor:
        return self._reduced(features[counted].float().square().mean(1), len(features))

    def _reduced(self, values: Tensor, batch: int) -> Tensor:
        """Sum `values` (frames,) or, with `reduction: released`, multiply their mean by the number of utterances."""
        return values.sum() if self.cfg.reduction == "valid_frames" else values.mean() * batch

    def _teacher_terms(self, recording: RecordingModel, inputs: dict[str, Any], counted: Tensor) -> dict[str, Tensor]:
        """Return the terms that compare student and teacher, over the frames in `counted` (batch, frames)."""
        if self.teacher is None:
            return {}
        source, padding_mask = inputs["source"], inputs.get("padding_mask")
        hidden: list[Tensor] = []
        if self.pairs:
            output = self.teacher.run(source, padding_mask, return_hidden=True)
            teacher_logits, hidden = output.logits, output.hidden
        else:
            teacher_logits = self.teacher.logits(source, padding_mask)
        if teacher_logits.shape != recording.logits.shape:
            raise InputError(
                f"{self.cfg.teacher_checkpoint}: the teacher has {teacher_logits.shape[1]} frames where the student "
                f"has {recording.logits.shape[1]}; their frame rates must be equal"
            )
        student, teacher = recording.logits[counted], teacher_logits[counted]
        terms = {}
        if self.weights["kl"]:
            # This is a sum in both reductions: `batchmean` divides by the utterances, not by the frames.
            terms["kl"] = kl_divergence(student, teacher, self.cfg.temperature).sum()
        if self.weights["cosine"]:
            terms["cosine"] = self._reduced(cosine_distance(student, teacher), len(counted))
        if self.pairs:
            terms["hidden"] = self._hidden_term(recording.output["hidden"], hidden, counted)
        return terms

    def _hidden_term(self, student: list[Tensor], teacher: list[Tensor], counted: Tensor) -> Tensor:
        """Return the distance of hidden states (batch, frames, channels), averaged over the layer pairs."""
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
        """Log the stock CTC metrics and the mean of each unweighted term."""
        CtcCriterion.reduce_metrics(logging_outputs)
        size = sum(log.get("sample_size", 0) for log in logging_outputs)
        for name in TERMS:
            if any(name in log for log in logging_outputs):
                total = sum(log.get(name, 0) for log in logging_outputs)
                metrics.log_scalar(name, total / max(size, 1), size, round=4)
