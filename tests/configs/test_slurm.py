"""Slurm: the script of a dry run, and a real submission with submitit's executor for this machine."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml
from omegaconf import OmegaConf

from w2v_compress import compat

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")

Run = Callable[..., tuple[int, str, str]]
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize(
    ("folder", "name", "tasks"),
    [("distillation", "large_960h_to_12l", 4), ("pretraining", "stochastic_base_librispeech", 8)],
)
def test_a_dry_run_prints_the_script(run: Run, tmp_path: Path, folder: str, name: str, tasks: int) -> None:
    options = ["train", "--dry-run", "--config-dir", CONFIGS / folder, "--config-name", name]
    settings = [f"+run_config=slurm_{tasks}", "task.data=data", f"checkpoint.save_dir={tmp_path / 'run'}"]
    settings += ["hydra.launcher.partition=gpu", "hydra.launcher.nodes=2"]
    if folder == "distillation":
        settings += ["criterion.teacher_checkpoint=teacher.pt", "model.init_checkpoint=teacher.pt"]
    status, out, err = run(*options, *settings)
    assert status == 0, err
    directives = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", out, re.M))
    expected = {"nodes": "2", "ntasks-per-node": str(tasks), "gpus-per-node": str(tasks), "partition": "gpu"}
    assert directives.items() >= (expected | {"time": "4320", "signal": directives["signal"]}).items()
    assert directives["signal"].startswith("USR2@")
    assert re.search(r"^srun .*submitit", out, re.M)
    assert not (tmp_path / "run").exists()


def test_a_configuration_without_slurm(run: Run, tmp_path: Path) -> None:
    status, _, err = run("train", "--dry-run", "task=audio_finetuning", "task.data=x")
    assert status == 1
    assert err == "w2v-compress: train: --dry-run prints the script for Slurm: choose it, as with +run_config=slurm_8\n"


@pytest.fixture
def submission(pretraining: tuple[str, ...], tmp_path: Path) -> list[str]:
    """A command that submits a pre-training to this machine, as the configurations for Slurm do to a cluster."""
    launcher = {"override /hydra/launcher": "submitit_local"}
    hydra = {
        "mode": "MULTIRUN",
        "sweep": {"dir": "${checkpoint.save_dir}", "subdir": "."},
        "launcher": {"submitit_folder": "${checkpoint.save_dir}/jobs/%j", "timeout_min": 30},
    }
    # Groups of fairseq are chosen by name in a file.
    named = [re.sub(r"^(task|criterion|model|optimizer|lr_scheduler)=", r"\1._name=", each) for each in pretraining]
    settings = OmegaConf.to_container(OmegaConf.from_dotlist(named))
    assert isinstance(settings, dict)
    settings["checkpoint"] |= {"save_dir": str(tmp_path / "run"), "keep_interval_updates": 2}
    settings["optimization"]["max_update"] = 40
    config = {"defaults": [launcher, "_self_"], "hydra": hydra, **settings}
    (tmp_path / "job.yaml").write_text("# @package _global_\n" + yaml.safe_dump(config))
    return [sys.executable, "-m", "w2v_compress", "train", "--config-dir", str(tmp_path), "--config-name", "job"]


def test_a_submitted_job_is_preempted_and_goes_on(submission: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(submission, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not list(run.glob("checkpoint_1_*.pt")):
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    (job,) = (child for child in children if "submitit.core._submit" in child.cmdline())
    job.send_signal(signal.SIGUSR2)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output[-3000:]
    (errors,) = run.glob("jobs/*/*.err")
    log = errors.read_text() + "".join(path.read_text() for path in run.glob("*.log"))
    assert "asked to end: saved at update" in log
    state = compat.load_checkpoint(run / "checkpoint_last.pt")
    assert state["optimizer_history"][-1]["num_updates"] == 40
