"""Four processes have the loss curve of one process with the same total batch, also when their shards are uneven."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from w2v_compress import compat
from w2v_compress.data.units import Units
from w2v_compress.interop.fairseq_checkpoint import write_checkpoint
from w2v_compress.model_file.storage import read_model

UTTERANCES = 13
"""Not a multiple of four: in the last update of an epoch three ranks have no batch."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest folder of noise of different lengths."""
    folder = tmp_path_factory.mktemp("distributed")
    units, generator, rows = Units.letters(), np.random.default_rng(0), [str(folder)]
    for index in range(UTTERANCES):
        audio = generator.normal(scale=0.1, size=6000 + 700 * (index % 5))
        soundfile.write(folder / f"{index}.wav", audio, 16_000)
        rows.append(f"{index}.wav\t{len(audio)}")
    (folder / "train.tsv").write_text("\n".join(rows) + "\n")
    texts = [units.labels("ONE TWO"[: 3 + index % 5]) for index in range(UTTERANCES)]
    (folder / "train.ltr").write_text("\n".join(texts) + "\n")
    units.write_dictionary(folder / units.dictionary_name)
    return folder


def train(folder: Path, out: Path, tiny: Path, settings: dict[str, object], *options: str) -> list[float]:
    """Fine-tune in a process of its own, and return the loss of each update."""
    config = {
        "common": {"cpu": True, "seed": 3, "log_format": "json", "log_interval": 1, "user_dir": "w2v_compress"},
        "checkpoint": {"save_dir": str(out), "no_epoch_checkpoints": True},
        "task": {"_name": "compressed_finetuning", "data": str(folder), "labels": "ltr", "normalize": True},
        "dataset": {"num_workers": 0, "batch_size": 1, "disable_validation": True, "required_batch_size_multiple": 1},
        "model": {"_name": "compressed_ctc", "w2v_path": str(tiny), "feature_grad_mult": 1.0},
        "criterion": {"_name": "ctc", "zero_infinity": True},
        "optimizer": {"_name": "adam", "adam_eps": 1.0},
        "lr_scheduler": {"_name": "fixed"},
        "optimization": {"max_update": 8, "lr": [0.01]},
        "distributed_training": {"ddp_backend": "pytorch_ddp"},
    }
    merged = OmegaConf.merge(config, OmegaConf.from_dotlist([f"{name}={value}" for name, value in settings.items()]))
    out.mkdir()
    (out / "train.yaml").write_text("# @package _group_\n" + OmegaConf.to_yaml(merged))
    command = [sys.executable, "-m", "w2v_compress", "train", *options, "--config-dir", str(out)]
    command += ["--config-name", "train", f"hydra.run.dir={out}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    lines = [json.loads(line) for line in re.findall(r"\[train_inner\]\[INFO\] - ({.*})", done.stdout + done.stderr)]
    return [float(line["loss"]) for line in lines]


@pytest.mark.parametrize("kind", ["sampled points", "distillation"])
def test_four_processes_equal_one(kind: str, folder: Path, tiny_path: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.pt"
    write_checkpoint(teacher, read_model(tiny_path))
    settings: dict[str, object] = {"model.learned_upsampling": [2, 3, 4]}
    if kind == "distillation":
        settings = {"criterion._name": "ctc_distillation", "criterion.teacher_checkpoint": str(teacher)}
        settings |= {"criterion.ctc_weight": 0.5, "task.point": "2,1,1"}
    four = train(folder, tmp_path / "four", tiny_path, settings, "--nproc", "4")
    one = train(folder, tmp_path / "one", tiny_path, settings | {"optimization.update_freq": [4]})
    assert len(one) == 8
    np.testing.assert_allclose(four, one, rtol=2e-4)
    first, second = (
        compat.load_checkpoint(tmp_path / name / "checkpoint_last.pt")["model"] for name in ("four", "one")
    )
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-4, atol=1e-5)
