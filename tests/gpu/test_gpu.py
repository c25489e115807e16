"""What a GPU adds: equal results at every point, reduced precision, training, and two processes on one GPU."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from omegaconf import OmegaConf

from w2v_compress.data.units import Units
from w2v_compress.interop.fairseq_checkpoint import write_checkpoint
from w2v_compress.model_file.storage import read_model
from w2v_compress.runtime.recognizer import Recognizer

POINTS = ["1,1,1", "2,1,1", "3,1,2", "4,2,2"]


def relative_error(log_probs: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(log_probs - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 5e-2)])
def test_parity_with_the_cpu(device: str, tiny_path: Path, point: str, precision: str, tolerance: float) -> None:
    audio = [np.random.default_rng(seed).normal(size=16_000 + 5000 * seed).astype(np.float32) for seed in range(3)]
    cpu = Recognizer.load(tiny_path, engine="torch", precision="fp32")
    other = Recognizer.load(tiny_path, engine="torch", precision=precision, device=device)
    chosen = cpu.checked_point(point)
    expected, found = (each.engine.log_probs(audio, chosen) for each in (cpu, other))
    for first, second in zip(found, expected, strict=True):
        assert relative_error(first, second) < tolerance


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    units, rows = Units.letters(), [str(folder)]
    for index in range(8):
        soundfile.write(folder / f"{index}.wav", np.random.default_rng(index).normal(scale=0.1, size=12_000), 16_000)
        rows.append(f"{index}.wav\t12000")
    (folder / "train.tsv").write_text("\n".join(rows) + "\n")
    (folder / "train.ltr").write_text(f"{units.labels('ONE TWO')}\n" * 8)
    units.write_dictionary(folder / units.dictionary_name)
    return folder


def train(
    folder: Path,
    out: Path,
    tiny: Path,
    device: str,
    *settings: str,
    options: tuple[str, ...] = (),
    overrides: tuple[str, ...] = (),
) -> list[float]:
    """Distil at sampled points for four updates, and return the losses."""
    teacher = out / "teacher.pt"
    write_checkpoint(teacher, read_model(tiny))
    config = {
        "common": {"cpu": device == "cpu", "seed": 3, "log_format": "json", "log_interval": 1},
        "checkpoint": {"save_dir": str(out), "no_save": True},
        "task": {"_name": "compressed_finetuning", "data": str(folder), "labels": "ltr", "normalize": True},
        "dataset": {"num_workers": 0, "batch_size": 2, "disable_validation": True, "required_batch_size_multiple": 1},
        "model": {"_name": "compressed_ctc", "w2v_path": str(tiny), "feature_grad_mult": 1.0},
        "criterion": {"_name": "ctc_distillation", "teacher_checkpoint": str(teacher), "ctc_weight": 0.5},
        "optimizer": {"_name": "adam", "adam_eps": 1.0},
        "lr_scheduler": {"_name": "fixed"},
        "optimization": {"max_update": 4, "lr": [0.01]},
        "distributed_training": {"ddp_backend": "pytorch_ddp"},
    }
    merged = OmegaConf.merge(config, OmegaConf.from_dotlist(list(settings)))
    (out / "train.yaml").write_text("# @package _group_\n" + OmegaConf.to_yaml(merged))
    command = [sys.executable, "-m", "w2v_compress", "train", *options, "--config-dir", str(out)]
    command += ["--config-name", "train", f"hydra.run.dir={out}", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    lines = [json.loads(line) for line in re.findall(r"\[train_inner\]\[INFO\] - ({.*})", done.stdout + done.stderr)]
    return [float(line["loss"]) for line in lines]


@pytest.mark.parametrize(
    ("setting", "tolerance"),
    [("common.fp16=false", 1e-3), ("common.bf16=true", 5e-2), ("common.fp16=true", 5e-2)],
    ids=["fp32", "bf16", "fp16"],
)
def test_training_equals_the_cpu(
    device: str, folder: Path, tiny_path: Path, tmp_path: Path, setting: str, tolerance: float
) -> None:
    if device == "cpu" and "fp16=true" in setting:
        pytest.skip("fairseq trains in fp16 on GPUs only")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "gpu").mkdir()
    expected = train(folder, tmp_path / "cpu", tiny_path, "cpu")
    found = train(folder, tmp_path / "gpu", tiny_path, device, setting)
    assert len(found) == len(expected) == 4
    np.testing.assert_allclose(found, expected, rtol=tolerance)


def test_a_teacher_in_bf16(device: str, folder: Path, tiny_path: Path, tmp_path: Path) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        (tmp_path / precision).mkdir()
        setting = f"criterion.teacher_precision={precision}"
        losses.append(train(folder, tmp_path / precision, tiny_path, device, setting))
    np.testing.assert_allclose(losses[1], losses[0], rtol=5e-2)


def test_two_processes_on_one_gpu(device: str, folder: Path, tiny_path: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = train(folder, tmp_path / "one", tiny_path, device, "optimization.update_freq=[2]")
    # NCCL refuses two ranks on one GPU; gloo takes tensors of GPUs.
    options = ("--nproc", "2")
    overrides = ("distributed_training.distributed_backend=gloo", "distributed_training.device_id=0")
    two = train(folder, tmp_path / "two", tiny_path, device, options=options, overrides=overrides)
    np.testing.assert_allclose(two, one, rtol=2e-3)
