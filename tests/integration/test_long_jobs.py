"""Trainings that are killed or asked to end go on as if nothing had happened."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from w2v_compress import compat

UPDATES = 8


@pytest.fixture
def command(pretraining: tuple[str, ...]) -> Callable[[Path], list[str]]:
    """command(folder) is a pre-training at sampled points for `UPDATES` updates, each with a checkpoint."""
    changed = ("task=compressed_pretraining", "model=stochastic_sew", "dataset.required_batch_size_multiple=1")
    kept = [setting for setting in pretraining if not setting.startswith(("task=", "model=", "model.required_seq"))]

    def make(folder: Path) -> list[str]:
        program = [sys.executable, "-m", "w2v_compress", "train", *kept, *changed]
        return [
            *program,
            f"optimization.max_update={UPDATES}",
            f"checkpoint.save_dir={folder}",
            f"hydra.run.dir={folder}",
            "checkpoint.keep_interval_updates=2",
        ]

    return make


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return compat.load_checkpoint(folder / "checkpoint_last.pt")["model"]


def updates(folder: Path) -> int:
    return compat.load_checkpoint(folder / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"]


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.soak)], ids=lambda number: number.name
)
def test_an_ended_training_goes_on(
    command: Callable[[Path], list[str]], tmp_path: Path, number: signal.Signals
) -> None:
    straight, ended = tmp_path / "straight", tmp_path / "ended"
    subprocess.run(command(straight), check=True, capture_output=True, timeout=300)
    process = start(command(ended))
    wait_for(ended / "checkpoint_1_2.pt")
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output[-3000:]
    assert f"asked to end: saved at update {updates(ended)}, ends with status 75" in output
    assert updates(ended) < UPDATES
    assert not list(ended.glob("*.tmp"))
    subprocess.run(command(ended), check=True, capture_output=True, timeout=300)
    assert updates(ended) == UPDATES
    expected, resumed = weights(straight), weights(ended)
    for name, tensor in expected.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0)


def test_a_rank_that_dies_ends_the_others(command: Callable[[Path], list[str]], tmp_path: Path) -> None:
    arguments = command(tmp_path / "run")
    place = arguments.index("train") + 1
    arguments[place:place] = ["--nproc", "2"]
    process = start([*arguments, "optimization.max_update=100000", "checkpoint.no_save=true"])
    wait_for(tmp_path / "run" / "hydra_train.log")
    (rank,) = (child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1")
    time.sleep(5)
    rank.kill()
    start_time = time.monotonic()
    output, _ = process.communicate(timeout=120)
    assert time.monotonic() - start_time < 60
    assert process.returncode == 1
    assert "rank 1 was ended by SIGKILL" in output.splitlines()[-1]


ROUNDS = int(os.environ.get("KILL_ROUNDS", "1"))
"""Number of kills in a row; `make soak` sets 20."""
MODES = ("writing", "one rank", "full disk", "all ranks")


def kill_all(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all that it started, at once."""
    everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for each in everyone:
        each.suspend()
    for each in everyone:
        each.kill()


def fill_disk(arguments: list[str], folder: Path) -> None:
    """Run a training that cannot write its next checkpoint to the end."""
    limit = max((path.stat().st_size for path in folder.glob("checkpoint*.pt")), default=0) // 2
    process = subprocess.run(
        arguments,
        stdout=subprocess.PIPE,  # the limit holds for files only
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert process.returncode == 1
    assert "cannot be written" in process.stdout
    assert not list(folder.glob("*.tmp"))


def interrupt(mode: str, arguments: list[str], folder: Path, generator: random.Random) -> None:
    """Start a training with two ranks, and end it in one of `MODES` after a random time."""
    if mode == "full disk":
        fill_disk(arguments, folder)
        return
    count = len(list(folder.glob("checkpoint_*_*.pt")))
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(folder.glob("checkpoint_*_*.pt"))) == count:
        time.sleep(0.01)
    time.sleep(generator.random())
    if mode == "writing":
        while process.poll() is None and not list(folder.glob("*.tmp")):
            pass
    if process.poll() is None and mode == "one rank":
        ranks = [each for each in psutil.Process(process.pid).children() if "RANK" in each.environ()]
        generator.choice(sorted(ranks, key=lambda each: each.environ()["RANK"])).kill()
        assert process.wait(timeout=60) == 1
    elif process.poll() is None:
        kill_all(process)
        process.wait(timeout=60)


def test_kills_in_a_row(command: Callable[[Path], list[str]], tmp_path: Path) -> None:
    """From the last whole checkpoint on, the weights and the optimizer are those of an uninterrupted training."""
    generator, length = random.Random(0), [f"optimization.max_update={25 * (ROUNDS + 1)}"]
    length += ["checkpoint.save_interval_updates=10", "checkpoint.keep_interval_updates=-1"]

    def two_ranks(folder: Path) -> list[str]:
        arguments = command(folder)
        place = arguments.index("train") + 1
        return [*arguments[:place], "--nproc", "2", *arguments[place:], *length]

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    subprocess.run(two_ranks(straight), check=True, capture_output=True, timeout=600)
    killed.mkdir()
    for number in range(ROUNDS):
        interrupt(MODES[number % len(MODES)], two_ranks(killed), killed, generator)
        for path in killed.glob("checkpoint*.pt"):
            compat.load_checkpoint(path)  # each is whole
    done = subprocess.run(two_ranks(killed), check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    expected, resumed = (compat.load_checkpoint(folder / "checkpoint_last.pt") for folder in (straight, killed))
    torch.testing.assert_close(resumed["model"], expected["model"], rtol=0, atol=0)
    torch.testing.assert_close(
        resumed["last_optimizer_state"]["state"], expected["last_optimizer_state"]["state"], rtol=0, atol=0
    )
