"""Values that a criterion records for the log."""

from typing import Any

import torch


class Recorded:
    """A model that keeps its last output, so that the stock CTC criterion and the distillation share one pass."""

    def __init__(self, model: Any, **inputs: Any) -> None:
        self.model = model
        self.inputs = inputs
        self.output: dict[str, Any] = {}
        self.logits = torch.empty(0)

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        self.output = self.model(**inputs, **self.inputs)
        self.logits = self.output["encoder_out"].transpose(0, 1)  # (batch, frames, units)
        if self.output["padding_mask"] is not None:
            self.logits = self.logits.clone()  # the stock criterion overwrites those of padded frames
        return self.output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)
