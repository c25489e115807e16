"""Start one training process for each GPU or, on CPUs, for each rank asked for."""

import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import InputError
from .preemption import STATUS

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

LONG_FLAGS = (
    "distributed_training.distributed_init_method=env://",
    "distributed_training.distributed_no_spawn=true",
    "distributed_training.distributed_rank=${oc.env:RANK}",
    "distributed_training.device_id=${oc.env:LOCAL_RANK}",
)
"""Settings with which fairseq joins the processes that torch has started."""
KILLED = (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGBUS)
"""Statuses of processes that ended by no error of their own code: out of memory, killed, or a fault of the machine."""


def launch(processes: int, arguments: list[str], *, cpu: bool) -> None:
    """Train with `processes` processes on this machine; `arguments` are those of fairseq-hydra-train.

    Raises `InputError` that names the rank if one of them ends with an error or dies; torch then ends the others. Exits
    with the status of a preempted training if they were asked to end.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=1,
    )
    flags = [
        *LONG_FLAGS,
        f"distributed_training.distributed_world_size={processes}",
        f"distributed_training.distributed_backend={'gloo' if cpu else 'nccl'}",
    ]
    given = {argument.partition("=")[0] for argument in arguments}
    flags = [flag for flag in flags if flag.partition("=")[0] not in given]
    command = ["-P", "-m", __package__.partition(".")[0], "train", *arguments, *flags]
    try:
        elastic_launch(config, sys.executable)(*command)
    except SignalException:
        raise SystemExit(STATUS) from None
    except ChildFailedError as error:
        rank, failure = _cause(error.failures)
        if failure.exitcode == STATUS:
            raise SystemExit(STATUS) from None
        raise InputError(f"train: rank {rank} {_ending(failure)}, so all ranks have ended") from None


def _cause(failures: Mapping[int, "ProcessFailure"]) -> tuple[int, "ProcessFailure"]:
    """Return the rank that failed first.

    Once one is gone, the others fail with an error of their own, often within the same look at the processes, which
    torch takes every second and lists by rank. One that was killed did not fail of another; torch kills those that do
    not end by SIGTERM only after 30 s.
    """
    first, failure = min(failures.items(), key=lambda each: each[1].timestamp)
    for rank, other in failures.items():
        if other.exitcode in KILLED and other.timestamp <= failure.timestamp + 1:
            return rank, other
    return first, failure


def _ending(failure: "ProcessFailure") -> str:
    if failure.exitcode >= 0:
        return f"ended with status {failure.exitcode} (its error is above)"
    return f"was ended by {signal.Signals(-failure.exitcode).name}"
