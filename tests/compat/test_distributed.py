"""Distributed training on CPUs."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from w2v_compress import compat

compat.apply()

from fairseq.distributed import utils as distributed_utils  # noqa: E402
from fairseq.models.distributed_fairseq_model import DistributedFairseqModel  # noqa: E402


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[Any]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield torch.distributed.group.WORLD
    torch.distributed.destroy_process_group()


def test_collectives_on_cpu(process_group: Any) -> None:
    for size in (64, 1024, 16384):  # growing buffers
        assert distributed_utils.all_gather_list({"loss": 1.5}, process_group, max_size=size) == [{"loss": 1.5}]


def test_data_parallel_on_cpu(process_group: Any) -> None:
    settings = SimpleNamespace(
        tpu=False, ddp_backend="pytorch_ddp", device_id=0, broadcast_buffers=False, bucket_cap_mb=25,
        find_unused_parameters=False, gradient_as_bucket_view=False, ddp_comm_hook="none", heartbeat_timeout=-1,
    )  # fmt: skip
    wrapped = DistributedFairseqModel(settings, torch.nn.Linear(2, 1), process_group, torch.device("cpu"))
    wrapped(torch.ones(3, 2)).sum().backward()
    assert wrapped.weight.grad.tolist() == [[3.0, 3.0]]


def test_threads_get_time_to_end_after_a_training_with_gloo(tmp_path: Path) -> None:
    """Python ends other threads of its own as soon as it shuts down; those of gloo abort the process."""
    program = f"""
import threading, time, torch
from w2v_compress import compat

compat.apply()
torch.distributed.init_process_group("gloo", init_method="file://{tmp_path / "store"}", rank=0, world_size=1)
threading.Thread(target=lambda: (time.sleep(0.02), print("freed")), daemon=True).start()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "freed\n"


def test_two_processes_train_on_cpu(
    tmp_path: Path,
    pretraining: tuple[str, ...],
    train: Callable[..., None],
    two_processes: Callable[..., str],
) -> None:
    """Resume with `common.user_dir`, as documented: the state is sent to the second process."""
    settings = [*pretraining, f"checkpoint.save_dir={tmp_path}"]
    train(*settings, "optimization.max_update=1")
    log = two_processes(
        ["-m", "fairseq_cli.hydra_train"],
        *settings,
        *[f"hydra.run.dir={tmp_path}", "optimization.max_update=3", f"common.user_dir={compat.plugin.user_dir()}"],
        "checkpoint.reset_dataloader=true",
    )
    assert "(epoch 1 @ 1 updates)" in log
    assert '"nsentences": "4"' in log  # two from each process
    state = compat.load_checkpoint(tmp_path / "checkpoint_last.pt")
    assert state["optimizer_history"][-1]["num_updates"] == 3
