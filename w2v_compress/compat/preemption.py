"""Save a checkpoint and end, with a status of its own, when a scheduler asks a training to end."""

import functools
import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

logger = logging.getLogger(__name__)

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # the last two: POSIX
)
"""Signals with which schedulers announce that a job is preempted or at its time limit."""
STATUS = 75
"""Exit status of a training that was asked to end and can go on from its checkpoint; EX_TEMPFAIL of sysexits.h."""

_received: list[int] = []
_others: dict[int, Callable[[int, FrameType | None], Any]] = {}
"""Handlers that were there before, such as submitit's, which queues the job again and exits."""


def patch_train(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Patch fairseq's `train`, which runs an epoch, to note `SIGNALS` from then on."""

    @functools.wraps(stock)
    def train(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread() is threading.main_thread() and not _others:
            for number in SIGNALS:
                handler = signal.getsignal(number)
                # submitit ignores SIGTERM, which Slurm sends along with SIGUSR2.
                if handler == signal.SIG_DFL or (callable(handler) and number != signal.SIGTERM):
                    _others[number] = handler if callable(handler) else _exit
                    signal.signal(number, functools.partial(_note, os.getpid()))
        return stock(*arguments, **options)

    return train


def _note(process: int, number: int, frame: FrameType | None) -> None:
    if os.getpid() == process:
        _received.append(number)
        return
    signal.signal(number, signal.SIG_DFL)  # a worker of the data loader, which inherited the handler
    os.kill(os.getpid(), number)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(STATUS)


def patch_validate_and_save(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Patch fairseq's `validate_and_save`, called after each update, to save and exit if any rank got a signal."""

    @functools.wraps(stock)
    def validate_and_save(
        cfg: Any, trainer: Any, task: Any, epoch_itr: Any, valid_subsets: list[str], end_of_epoch: bool
    ) -> Any:
        if not _received_by_any_rank(trainer):
            return stock(cfg, trainer, task, epoch_itr, valid_subsets, end_of_epoch)
        from fairseq import checkpoint_utils

        checkpoint_utils.save_checkpoint(cfg.checkpoint, trainer, epoch_itr, None)
        logger.warning("asked to end: saved at update %d, ends with status %d", trainer.get_num_updates(), STATUS)
        for number in _received[:1]:
            _others[number](number, None)
        raise SystemExit(STATUS)

    return validate_and_save


def _received_by_any_rank(trainer: Any) -> bool:
    if trainer.data_parallel_world_size == 1:
        return bool(_received)
    from fairseq.distributed import utils as distributed

    ranks = torch.tensor(float(bool(_received)), device=trainer.device)
    distributed.all_reduce(ranks, trainer.data_parallel_process_group, op="sum")
    return bool(ranks.item())
