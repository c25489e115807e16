"""Record the output of a model that another criterion calls."""

from typing import Any

import torch


class RecordingModel:
    """Wrapper that records the last output of `model`, so that a stock criterion and another loss share one pass.

    All other attributes are those of `model`. `inputs` are passed to every call in addition to the caller's.
    """

    def __init__(self, model: Any, **inputs: Any) -> None:
        self.model = model
        self.inputs = inputs
        self.output: dict[str, Any] = {}
        self.logits = torch.empty(0)

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        """Call the model and record its output, with `logits` as (batch, frames, units)."""
        self.output = self.model(**inputs, **self.inputs)
        self.logits = self.output["encoder_out"].transpose(0, 1)  # (batch, frames, units)
        if self.output["padding_mask"] is not None:
            self.logits = self.logits.clone()  # the stock criterion overwrites the logits of padded frames
        return self.output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)
