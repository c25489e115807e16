"""Documented commands: stock `fairseq-hydra-train` with the recipes in configs/."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from w2v_compress.data.units import Units
from w2v_compress.interop.fairseq_checkpoint import read_checkpoint, write_checkpoint
from w2v_compress.model_file.storage import ModelFile
from w2v_compress.nn.compression import CompressionSpace, parse_points

REPOSITORY = Path(__file__).resolve().parents[2]


def hydra_train(config_dir: str, config_name: str, *overrides: str) -> None:
    """Run a documented command in the repository's root, without `common.user_dir`, for two updates on the CPU."""
    command = [
        sys.executable,
        "-c",
        "from fairseq_cli.hydra_train import cli_main; cli_main()",
        *("--config-dir", config_dir, "--config-name", config_name),
        *("dataset.train_subset=train", "dataset.valid_subset=train", "dataset.num_workers=0"),
        *("optimization.max_update=2", "common.log_interval=1", "common.cpu=true", "common.fp16=false"),
        *overrides,
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def noise_and_letters(noise_corpus: Path, tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(noise_corpus / "train.tsv", data)
    (data / "train.ltr").write_text("A B |\n" * 12)
    Units.letters().write_dictionary(data / "dict.ltr.txt")
    return data


def test_distillation(noise_and_letters: Path, tmp_path: Path, tiny_model: Callable[..., ModelFile]) -> None:
    checkpoint = tmp_path / "24.pt"
    write_checkpoint(checkpoint, tiny_model(encoder_layers=24))
    hydra_train(
        "configs/distillation",
        "large_960h_to_12l",
        f"checkpoint.save_dir={tmp_path}/run",
        f"task.data={noise_and_letters}",
        f"model.init_checkpoint={checkpoint}",
        f"criterion.teacher_checkpoint={checkpoint}",
    )
    log = (tmp_path / "run" / "hydra_train.log").read_text()
    assert '"num_updates": "2"' in log
    assert re.search(r'"train_wer": "[\d.]+"', log)
    student = read_checkpoint(tmp_path / "run" / "checkpoint_best.pt").model
    assert student.header.architecture.encoder_layers == 12


def test_an_elastic_model(noise_and_letters: Path, tmp_path: Path) -> None:
    """Pre-train, fine-tune, and retrofit the fine-tuned model."""
    hydra_train(
        "configs/pretraining",
        "stochastic_base_librispeech",
        f"checkpoint.save_dir={tmp_path}/pretrained",
        f"task.data={noise_and_letters}",
        *("task.min_sample_size=100", "dataset.max_tokens=16000", "optimization.update_freq=[2]"),
        *("+model.encoder_layers=1", "+model.encoder_ffn_embed_dim=64", "+model.encoder_attention_heads=2"),
        *("model.encoder_embed_dim=64", "model.final_dim=16", "+model.latent_vars=8"),
        "+model.conv_feature_layers='[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2'",
    )
    log = (tmp_path / "pretrained" / "hydra_train.log").read_text()
    assert re.search(r'"train_loss_s4_q2_k2": "[\d.]+"', log)
    source = tmp_path / "pretrained" / "checkpoint_last.pt"
    for recipe, points in (("elastic_10h", []), ("elastic_retrofit_10h", ["1,1,1", "2,1,1"])):
        listed = json.dumps(points, separators=(",", ":"))
        hydra_train(
            "configs/finetuning",
            recipe,
            f"checkpoint.save_dir={tmp_path}/{recipe}",
            f"task.data={noise_and_letters}",
            f"model.w2v_path={source}",
            *("model.mask_channel_length=8", "dataset.validate_after_updates=0", "dataset.validate_interval=1"),
            *([f"task.points={listed}", f"task.valid_points={listed}"] if points else []),
        )
        log = (tmp_path / recipe / "hydra_train.log").read_text()
        assert re.search(r'"train_wer_mean": "[\d.]+"', log)
        source = tmp_path / recipe / "checkpoint_best.pt"
        space = read_checkpoint(source).model.header.space
        assert space == CompressionSpace(points=parse_points(points))
