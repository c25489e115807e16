"""Skip updates whose gradient is not finite: a base of the pre-training and fine-tuning tasks."""

import logging
from typing import Any

import torch
from fairseq.distributed import utils as distributed
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from torch import nn

from ..errors import InputError

logger = logging.getLogger(__name__)

MAX_SKIPPED = 20
"""Number of skipped updates in a row after which training ends, because the weights do not recover."""


class FiniteUpdatesTask(FairseqTask):
    """Mix-in for fairseq's tasks, which end a training in fp32 or bf16 at the first gradient that is NaN or infinite.

    In fp16, fairseq skips the update itself and lowers the loss scale.
    """

    _finite = True  # whether the gradients of the current update are, on this rank
    _skipped = False  # whether the last update was
    _skipped_in_a_row = 0

    def drop_infinite_gradients(self, model: nn.Module, criterion: nn.Module, optimizer: Any) -> None:
        """Set the gradients of a batch to 0 if one is not finite, so that fairseq goes on to the optimizer's step.

        Ranks that exchange gradients in the backward pass all have the same.
        """
        if getattr(optimizer, "scaler", None) is not None:
            return
        parameters = [*model.parameters(), *criterion.parameters()]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if gradients and not torch.stack(torch._foreach_norm(gradients)).isfinite().all():
            self._finite = False
            torch._foreach_zero_(gradients)

    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        """Run the stock step, unless the gradient was not finite on any rank.

        Raises `InputError` after `MAX_SKIPPED` skipped updates in a row.
        """
        self._skipped = not self._finite_on_all_ranks(next(model.parameters()).device)
        self._finite = True
        if not self._skipped:
            self._skipped_in_a_row = 0
            super().optimizer_step(optimizer, model, update_num)
            return
        self._skipped_in_a_row += 1
        logger.warning("update %d is skipped: its gradient is not finite", update_num + 1)
        if self._skipped_in_a_row == MAX_SKIPPED:
            raise InputError(
                f"the gradients of {MAX_SKIPPED} updates in a row are not finite; lower optimization.lr, or go on from "
                "an older checkpoint"
            )

    def _finite_on_all_ranks(self, device: torch.device) -> bool:
        if distributed.get_data_parallel_world_size() == 1:
            return self._finite
        ranks = torch.tensor(float(self._finite), device=device)
        distributed.all_reduce(ranks, distributed.get_data_parallel_group(), op="sum")
        return ranks.item() == distributed.get_data_parallel_world_size()

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Log the stock metrics, and `skipped_updates`: their number, if there were any."""
        super().reduce_metrics(logging_outputs, criterion)
        if self._skipped:
            metrics.log_scalar_sum("skipped_updates", 1, round=0)
            self._skipped = False
