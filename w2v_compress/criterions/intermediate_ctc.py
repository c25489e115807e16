"""`intermediate_ctc`: CTC with additional CTC losses on the outputs of lower layers.

"Intermediate Loss Regularization for CTC-based Speech Recognition" (Lee and Watanabe 2021, section 3): the loss is
(1 - w) * CTC + w * mean over layers of the CTC loss of their outputs, which the final layer norm and the CTC head turn
into logits. Training only: validation and inference are those of stock `ctc`.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.ctc import CtcCriterion, CtcCriterionConfig
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from torch import Tensor

from ..distillation.recording import RecordingModel
from ..errors import InputError


@dataclass
class IntermediateCtcConfig(CtcCriterionConfig):
    """Settings of `intermediate_ctc`."""

    intermediate_layers: list[int] = field(
        default_factory=list,
        metadata={"help": "layers with a CTC loss, counted from 1, such as [3] of six; each below the last one"},
    )
    intermediate_weight: float = field(
        default=0.3, metadata={"help": "weight w of the intermediate losses, 0 to 1; that of the final one is 1 - w"}
    )


class _FixedOutput:
    """A model that returns `output` for every input, and has all other attributes of `model`."""

    def __init__(self, model: Any, output: dict[str, Any]) -> None:
        self.model = model
        self.output = output

    def __call__(self, **_: Any) -> dict[str, Any]:
        return self.output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


@register_criterion("intermediate_ctc", dataclass=IntermediateCtcConfig)
class IntermediateCtc(CtcCriterion):
    """The stock CTC criterion with losses on lower layers, for the models `compressed_ctc` and `student_ctc`."""

    def __init__(self, cfg: IntermediateCtcConfig, task: FairseqTask) -> None:
        super().__init__(cfg, task)
        if not 0 <= cfg.intermediate_weight <= 1 or not math.isfinite(cfg.intermediate_weight):
            raise InputError(f"criterion.intermediate_weight is {cfg.intermediate_weight}; it must be from 0 to 1")
        architecture = getattr(task, "student_architecture", None)
        if architecture is None:
            raise InputError(
                "criterion=intermediate_ctc needs hidden states; model must be student_ctc or compressed_ctc"
            )
        layers = list(cfg.intermediate_layers)
        if (
            not layers
            or len(set(layers)) < len(layers)
            or not all(0 < each < architecture.encoder_layers for each in layers)
        ):
            raise InputError(
                f"criterion.intermediate_layers is {layers}; it must list layers from 1 to "
                f"{architecture.encoder_layers - 1}, each once"
            )
        self.layers = layers
        self.weight = cfg.intermediate_weight

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True, **_: Any) -> tuple[Tensor, Any, dict]:
        """Return the summed loss, the sample size and the values to log, as the stock criterion does."""
        if not model.training:
            outcome: tuple[Tensor, Any, dict] = super().forward(model, sample, reduce)
            return outcome
        recording = RecordingModel(model, return_hidden=True)
        final, size, logging_output = super().forward(recording, sample, reduce)
        losses = []
        for layer in self.layers:
            output = recording.output | {
                "encoder_out": model.intermediate_logits(recording.output["hidden"][layer - 1])
            }
            losses.append(super().forward(_FixedOutput(model, output), sample, reduce)[0])
        intermediate = torch.stack(losses).mean()
        logging_output |= {"intermediate_ctc": intermediate.item()}
        return (1 - self.weight) * final + self.weight * intermediate, size, logging_output

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """Log the stock metrics, whose `loss` is that of the last layer, and the mean intermediate loss in bits."""
        CtcCriterion.reduce_metrics(logging_outputs)
        logs = [log for log in logging_outputs if "intermediate_ctc" in log]
        if logs:
            size = sum(log["sample_size"] for log in logs)
            total = sum(log["intermediate_ctc"] for log in logs)
            metrics.log_scalar("intermediate_ctc", total / max(size, 1) / math.log(2), size, round=3)
