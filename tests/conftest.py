"""Fixtures: a tiny recognizer, audio for it, the command line, and fairseq runs on noise."""

import os

# Set before torch is imported, and for the processes that tests start: more threads than cores make tiny runs slow.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from w2v_compress.cores import available_cores

os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else str(min(2, available_cores())))

import atexit
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from w2v_compress.data.manifest import Utterance, write_manifest
from w2v_compress.data.units import Units
from w2v_compress.errors import InputError
from w2v_compress.memory import peak_memory
from w2v_compress.model_file.header import Header
from w2v_compress.model_file.storage import ModelFile, write_model
from w2v_compress.nn.acoustic_model import AcousticModel
from w2v_compress.nn.architecture import Architecture
from w2v_compress.runtime.recognizer import Recognizer

END_TO_END = (
    "benchmark",
    "benchmarks",
    "cli/test_main.py",
    "compat",
    "configs",
    "docs",
    "cli/test_surroundings.py",
    "examples",
    "gpu",
    "integration",
    "interop/test_documented_snippets.py",
    "interop/test_onnx.py",
    "interop/test_openvino.py",
    "interop/test_transformers_export.py",
    "runtime/test_long_audio.py",
    "test_openmp.py",
    "test_package.py",
    "test_platforms.py",
    "test_special_files.py",
)
"""Folders and files of tests that start processes, train with fairseq or convert for other runtimes."""


def pytest_configure() -> None:
    """Keep compiled graphs in a folder of this run, which its workers and the processes that tests start share."""
    if "W2V_COMPRESS_CACHE" not in os.environ:
        os.environ["W2V_COMPRESS_CACHE"] = tempfile.mkdtemp(prefix="w2v-compress-graphs-")
        atexit.register(shutil.rmtree, os.environ["W2V_COMPRESS_CACHE"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its tier, by its place."""
    root = Path(__file__).parent
    for item in items:
        place = item.path.relative_to(root).as_posix()
        in_end_to_end = any(place == entry or place.startswith(f"{entry}/") for entry in END_TO_END)
        tier = "soak" if place.startswith("soak/") else "end_to_end" if in_end_to_end else "unit"
        item.add_marker(getattr(pytest.mark, tier))


TINY = Architecture(
    conv_layers=((16, 10, 5), *[(16, 3, 2)] * 4, *[(16, 2, 2)] * 2),
    extractor_mode="layer_norm",
    conv_bias=True,
    encoder_layers=2,
    encoder_embed_dim=32,
    encoder_ffn_embed_dim=64,
    encoder_attention_heads=2,
    layer_norm_first=True,
    conv_pos=16,
    conv_pos_groups=4,
)


def make_tiny_model(**changes: Any) -> ModelFile:
    """Return a model of the architecture `TINY` with `changes`, and random weights that recognize letters in noise."""
    architecture = dataclasses.replace(TINY, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = AcousticModel(architecture)
        torch.nn.init.normal_(network.proj.weight, std=2.0)
    symbols = (Units.letters().symbols + tuple("0123456789"))[: architecture.num_units]
    header = Header(architecture=architecture, units=Units("letter", symbols), normalize=True)
    return ModelFile(header, network.state_dict())


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., ModelFile]:
    return make_tiny_model


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of `TINY`."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    write_model(path, make_tiny_model())
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """run(argument, ...) returns the exit status, standard output and standard error of `w2v-compress`."""
    from w2v_compress.cli import main

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["w2v-compress", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capfd.readouterr()
        return int(caught.value.code or 0), out, err

    return call


@pytest.fixture
def rejects() -> Callable[..., None]:
    """rejects(read, path, message) asserts that `read` raises `InputError`, which starts with `path` and has `message`.

    `path` is the file or folder that is read. Reading must take less than ten seconds, and twice its size and 1 GiB.
    """

    def check(read: Callable[[], object], path: Path, message: str) -> None:
        files = [file for file in (path, *path.rglob("*")) if file.is_file()]
        start, before = time.monotonic(), peak_memory()
        with pytest.raises(InputError) as caught:
            read()
        assert str(caught.value).startswith(str(path))
        assert message in str(caught.value)
        assert time.monotonic() - start < 10
        assert peak_memory() - before < 2 * sum(file.stat().st_size for file in files) + (1 << 30)

    return check


@pytest.fixture
def wav(tmp_path: Path) -> Callable[..., Path]:
    """wav(name, seconds) writes noise with a varying level at 16 kHz, and returns its path."""

    def write(name: str, seconds: float, seed: int = 0) -> Path:
        generator = np.random.default_rng(seed)
        samples = generator.normal(size=round(16_000 * seconds))
        samples *= 0.1 * np.abs(np.sin(np.arange(len(samples)) / 2000))
        path = tmp_path / name
        soundfile.write(path, samples, 16_000)
        return path

    return write


@pytest.fixture
def data(tmp_path: Path, wav: Callable[..., Path], tiny_path: Path) -> Path:
    """A manifest folder whose subset `dev` has two utterances, of which the tiny model recognizes all words but one."""
    paths = [wav(f"{number}.wav", 1.0 + number, seed=number) for number in range(2)]
    texts = Recognizer.load(tiny_path, precision="fp32").transcribe(paths)
    texts[0] += " MORE"
    folder = tmp_path / "data"
    folder.mkdir()
    utterances = [Utterance(path, 16_000, text) for path, text in zip(paths, texts, strict=True)]
    write_manifest(folder, "dev", utterances, Units.letters())
    return folder


@pytest.fixture(scope="session")
def compose_recipe() -> Callable[..., Any]:
    """compose_recipe(recipe, overrides=(), with_hydra=True) composes a configuration like fairseq-hydra-train.

    With or without the settings of hydra itself.
    """

    def composed(recipe: Path, overrides: Sequence[str] = (), with_hydra: bool = True) -> Any:
        from fairseq.dataclass.initialize import hydra_init
        from hydra import compose, initialize_config_dir
        from hydra.core.global_hydra import GlobalHydra

        GlobalHydra.instance().clear()
        hydra_init(recipe.stem)
        with initialize_config_dir(str(recipe.parent), version_base="1.1"):
            return compose(recipe.stem, overrides=list(overrides), return_hydra_config=with_hydra)

    return composed


@pytest.fixture(scope="session")
def noise_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest folder for fairseq with the subset `train`: twelve utterances of half a second of noise."""
    folder = tmp_path_factory.mktemp("noise")
    lines = [str(folder)]
    for index, audio in enumerate(np.random.default_rng(0).normal(scale=0.1, size=(12, 8000))):
        soundfile.write(folder / f"{index}.wav", audio, 16_000)
        lines.append(f"{index}.wav\t{len(audio)}")
    (folder / "train.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def pretraining(noise_corpus: Path) -> tuple[str, ...]:
    """Overrides of fairseq-hydra-train: pre-training of a wav2vec 2.0 with 2 layers of width 16 on `noise_corpus`."""
    return (
        "task=audio_pretraining",
        f"task.data={noise_corpus}",
        "task.max_sample_size=8000",
        "task.min_sample_size=100",
        "criterion=wav2vec",
        "criterion.infonce=true",
        "criterion.loss_weights=[0.1,0]",
        "criterion.log_keys=[prob_perplexity,code_perplexity,temp]",
        "model=wav2vec2",
        "model.quantize_targets=true",
        "model.conv_feature_layers='[(16, 10, 5)] + [(16, 3, 2)] * 2'",
        "model.encoder_layers=2",
        "model.encoder_embed_dim=16",
        "model.encoder_ffn_embed_dim=32",
        "model.encoder_attention_heads=2",
        "model.conv_pos=8",
        "model.conv_pos_groups=2",
        "model.final_dim=8",
        "model.latent_vars=8",
        "model.num_negatives=5",
        "model.mask_prob=0.5",
        "model.mask_length=4",
        "model.encoder_layerdrop=0.5",
        "model.required_seq_len_multiple=1",
        "dataset.num_workers=0",
        "dataset.batch_size=2",
        "dataset.disable_validation=true",
        "optimizer=adam",
        "optimizer.adam_betas='(0.9,0.98)'",
        "lr_scheduler=fixed",
        "optimization.lr=[0.01]",
        "checkpoint.save_interval_updates=1",
        "checkpoint.no_epoch_checkpoints=true",
        "common.log_format=json",
        "common.log_interval=1",
        "common.seed=3",
        "common.cpu=true",
        "distributed_training.ddp_backend=pytorch_ddp",
        "distributed_training.find_unused_parameters=true",
    )


@pytest.fixture(scope="session")
def train() -> Callable[..., None]:
    """train(override, ...) runs `fairseq-hydra-train` in this process, which is faster than starting a new one."""
    from w2v_compress import compat

    compat.apply()
    from fairseq_cli.hydra_train import _hydra_main
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    def run(*overrides: str) -> None:
        GlobalHydra.instance().clear()
        with initialize_config_module("fairseq.config", version_base="1.1"):
            config = compose("config", overrides=list(overrides))
        _hydra_main(config)

    return run


@pytest.fixture(scope="session")
def two_processes() -> Callable[..., str]:
    """two_processes(program, argument, ...) runs a fairseq program in two processes with gloo, and returns its output.

    `program` is passed to `torchrun`: a script, or `-m` and a module.
    """

    def run(program: list[str], *arguments: str) -> str:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        distributed = {"world_size": "2", "backend": "gloo", "init_method": "env://", "no_spawn": "true"}
        settings = [f"distributed_training.distributed_{name}={value}" for name, value in distributed.items()]
        done = subprocess.run(
            [*launch, *program, *arguments, *settings, "distributed_training.distributed_rank=${oc.env:RANK}"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def train_losses() -> Callable[..., list[float]]:
    """train_losses(argument, ...) runs `w2v-compress train` in a process of its own: the loss of each update."""

    def run(*arguments: str) -> list[float]:
        command = [sys.executable, "-m", "w2v_compress", "train", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        logged = re.findall(r"\[train_inner\]\[INFO\] - ({.*})", done.stdout + done.stderr)
        return [float(json.loads(line)["loss"]) for line in logged]

    return run


@pytest.fixture(scope="session")
def losses(train_losses: Callable[..., list[float]]) -> Callable[..., list[float]]:
    """losses(out, config, argument, ...) trains in a process of its own, and returns the loss of each update.

    `config` is added to settings of a short fine-tuning at sampled points, and `out` is the run folder.
    """
    from omegaconf import OmegaConf

    common: dict[str, Any] = {
        "common": {"cpu": True, "seed": 3, "log_format": "json", "log_interval": 1},
        "checkpoint": {"no_epoch_checkpoints": True},
        "task": {"_name": "compressed_finetuning", "labels": "ltr", "normalize": True},
        "dataset": {"num_workers": 0, "disable_validation": True, "required_batch_size_multiple": 1},
        "model": {"_name": "compressed_ctc", "feature_grad_mult": 1.0},
        "criterion": {"_name": "ctc", "zero_infinity": True},
        # Without this epsilon Adam makes much of the rounding of gradients that are 0.
        "optimizer": {"_name": "adam", "adam_eps": 1.0},
        "lr_scheduler": {"_name": "fixed"},
        "optimization": {"lr": [0.01]},
        "distributed_training": {"ddp_backend": "pytorch_ddp"},
    }

    def run(out: Path, config: dict[str, Any], *arguments: str) -> list[float]:
        out.mkdir(exist_ok=True)
        merged = OmegaConf.merge(common, {"checkpoint": {"save_dir": str(out)}}, config)
        (out / "train.yaml").write_text("# @package _group_\n" + OmegaConf.to_yaml(merged))
        options = [argument for argument in arguments if "=" not in argument]
        overrides = [argument for argument in arguments if "=" in argument]
        options += ["--config-dir", str(out), "--config-name", "train"]
        return train_losses(*options, f"hydra.run.dir={out}", *overrides)

    return run


@pytest.fixture(scope="session")
def arpa_log10() -> Callable[[Path, str], list[float]]:
    """arpa_log10(path, text) returns the log10 probability of each word of `text` and of the end of the sentence.

    Computed by the definition of back-off in ARPA files (Katz 1987).
    """

    def scores(path: Path, text: str) -> list[float]:
        rows = [line.split("\t") for line in path.read_text().splitlines() if line.count("\t")]
        log_probs = {tuple(row[1].split()): float(row[0]) for row in rows}
        backoffs = {tuple(row[1].split()): float(row[2]) for row in rows if len(row) == 3}
        order = max(map(len, log_probs))

        def score(history: tuple[str, ...], word: str) -> float:
            if (*history, word) in log_probs:
                return log_probs[*history, word]
            return backoffs.get(history, 0.0) + score(history[1:], word)

        known = [word if (word,) in log_probs else "<unk>" for word in ("<s>", *text.split(), "</s>")]
        return [score(tuple(known[max(0, place + 1 - order) : place]), known[place]) for place in range(1, len(known))]

    return scores
