"""Every yaml in configs/, composed by hydra as fairseq-hydra-train does, and its model and criterion built for real.

A new file is tested as soon as it is there: recipes lie in configs/FOLDER/, what can be added in configs/FOLDER/GROUP/.
"""

import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import w2v_compress
import w2v_compress.models
from w2v_compress.data.units import Units
from w2v_compress.runtime.fairseq_checkpoint import read_checkpoint, write_checkpoint
from w2v_compress.runtime.model_file import ModelFile

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"
DISTILLATION = CONFIGS / "distillation"
FILES = sorted(CONFIGS.rglob("*.yaml"))


def recipe_and_group(file: Path) -> tuple[Path, list[str]]:
    """A recipe to compose `file` with, and the override that adds it there."""
    if file.parent.parent == CONFIGS:
        return file, []
    folder, group = file.parent.parent, file.parent.name
    recipe = min(folder.glob("*.yaml"))
    defaults = OmegaConf.load(recipe).get("defaults", [])
    chosen = any(isinstance(entry, DictConfig) and group in entry for entry in defaults)
    return recipe, [f"{'' if chosen else '+'}{group}={file.stem}"]


def compose(recipe: Path, *overrides: str, with_hydra: bool = False) -> Any:
    """The configuration as hydra composes it, `with_hydra` with hydra's own."""
    from fairseq.dataclass.initialize import hydra_init
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    hydra_init(recipe.stem)
    with initialize_config_dir(str(recipe.parent), version_base="1.1"):
        return compose(recipe.stem, overrides=list(overrides), return_hydra_config=with_hydra)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., ModelFile]) -> dict[str, Path]:
    """What recipes leave to be given: a model with the layers of LARGE, wide enough for spans of 64 channels."""
    folder = tmp_path_factory.mktemp("configs")
    Units.letters().write_dictionary(folder / "dict.ltr.txt")
    write_checkpoint(folder / "24.pt", tiny_model(encoder_layers=24, encoder_embed_dim=256))
    return {
        "checkpoint.save_dir": folder / "checkpoints",
        "task.data": folder,
        "criterion.teacher_checkpoint": folder / "24.pt",
        "model.init_checkpoint": folder / "24.pt",
    }


@pytest.fixture(scope="module")
def build(paths: dict[str, Path]) -> Callable[..., SimpleNamespace]:
    """build(recipe, override, ...) gives cfg, model, criterion, optimizer and lr_scheduler as in fairseq."""

    @functools.cache
    def run(recipe: Path, *overrides: str) -> SimpleNamespace:
        from fairseq import optim, tasks
        from fairseq.dataclass.initialize import add_defaults
        from fairseq.optim.lr_scheduler import build_lr_scheduler

        cfg = compose(recipe, *overrides)
        for name in OmegaConf.missing_keys(cfg) & paths.keys():
            OmegaConf.update(cfg, name, str(paths[name]))
        add_defaults(cfg)
        assert not OmegaConf.missing_keys(cfg)
        cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
        OmegaConf.set_struct(cfg, True)
        task = tasks.setup_task(cfg.task)
        model = task.build_model(cfg.model)
        criterion = task.build_criterion(cfg.criterion)
        optimizer = optim.build_optimizer(cfg.optimizer, [*model.parameters(), *criterion.parameters()])
        scheduler = build_lr_scheduler(cfg.lr_scheduler, optimizer)
        return SimpleNamespace(cfg=cfg, model=model, criterion=criterion, optimizer=optimizer, lr_scheduler=scheduler)

    return run


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONFIGS)))
def test_every_file_composes_and_what_it_names_is_built(file: Path, build: Callable[..., SimpleNamespace]) -> None:
    if "submitit" in file.read_text():
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    recipe, group = recipe_and_group(file)
    built = build(recipe, *group)
    audio = torch.randn(2, 16_000)
    sample = {
        "id": torch.arange(2),
        "net_input": {"source": audio, "padding_mask": torch.zeros(2, 16_000, dtype=torch.bool)},
        "target": torch.tensor([[5, 6, 7], [8, 9, 10]]),
        "target_lengths": torch.tensor([3, 3]),
        "ntokens": 6,
    }
    loss, size, _ = built.criterion(built.model.train(), sample)
    assert torch.isfinite(loss)
    assert loss > 0
    loss.backward()
    assert all(
        torch.isfinite(parameter.grad).all() for parameter in built.model.parameters() if parameter.grad is not None
    )
    assert size > 0
    assert (REPOSITORY / built.cfg.common.user_dir).samefile(Path(w2v_compress.__file__).parent)


def test_the_folder_is_not_empty() -> None:
    """Else the test above would pass on nothing."""
    names = {path.stem for path in DISTILLATION.glob("*.yaml")}
    assert names >= {"large_960h_to_12l", "12l_to_4l", "large_960h_to_12l_plus", "12l_to_4l_plus"}
    assert {path.stem for path in (DISTILLATION / "run_config").glob("*.yaml")} >= {"local", "slurm_1", "slurm_4"}


@pytest.mark.parametrize(("name", "layers"), [("large_960h_to_12l", 12), ("12l_to_4l", 4)])
def test_the_recipes_of_the_paper(name: str, layers: int, build: Callable[..., SimpleNamespace]) -> None:
    """The published numbers, stated again: Peng et al. 2021 and the recipe of its released code."""
    built = build(DISTILLATION / f"{name}.yaml")
    loss, student, cfg = built.criterion.cfg, built.model.cfg, built.cfg
    assert (loss.temperature, loss.kl_weight, loss.features_penalty_weight) == (1, 1, 1)
    assert (loss.ctc_weight, loss.cosine_weight, loss.hidden_weight) == (0, 0, 0)
    assert built.model.w2v_encoder.architecture.encoder_layers == layers
    assert (student.layer_selection, student.apply_mask) == ("every_k", False)
    assert not built.criterion.teacher.network.training
    assert (cfg.common.seed, cfg.common.fp16, cfg.optimization.max_epoch) == (42, True, 60)
    assert cfg.checkpoint.best_checkpoint_metric == "wer"

    (group,) = built.optimizer.optimizer.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.98), 1e-6, 0.01)
    # Batches of one utterance on each of four GPUs, here added up by one; 281,241 utterances in LibriSpeech's 960 h.
    assert (cfg.dataset.batch_size, cfg.optimization.update_freq, cfg.dataset.max_tokens) == (1, [4], None)
    epoch = -(-281_241 // 4)
    rates = {updates: built.lr_scheduler.step_update(updates) for updates in (epoch, 2 * epoch, 31 * epoch, 60 * epoch)}
    assert list(rates.values()) == pytest.approx([2.5e-5, 5e-5, 2.5e-5, 0], abs=1e-12)
    assert cfg.optimization.max_update == 60 * epoch


def test_adam_of_fairseq_is_adamw() -> None:
    """Decoupled weight decay: one step without any gradient shrinks a weight by lr x decay, whatever its size."""
    from fairseq.optim.adam import Adam

    weights = torch.nn.Parameter(torch.tensor([1.0, 100.0]))
    weights.grad = torch.zeros(2)
    Adam([weights], lr=0.1, weight_decay=0.01).step()
    torch.testing.assert_close(weights.data, torch.tensor([1.0, 100.0]) * (1 - 0.1 * 0.01))


@pytest.mark.parametrize(("name", "layers"), [("large_960h_to_12l_plus", 12), ("12l_to_4l_plus", 4)])
def test_the_improved_recipes(name: str, layers: int, build: Callable[..., SimpleNamespace]) -> None:
    built = build(DISTILLATION / f"{name}.yaml")
    loss, student = built.criterion.cfg, built.model.cfg
    assert built.model.w2v_encoder.architecture.encoder_layers == layers
    assert (loss.temperature, loss.reduction) == (2, "valid_frames")
    assert (loss.kl_weight, loss.ctc_weight, loss.hidden_weight) == (1, 0.1, 0.5)
    assert built.criterion.pairs[-1] == (24, layers)
    assert len(built.criterion.pairs) == layers
    assert (student.apply_mask, student.layerdrop) == (True, 0)
    assert built.cfg.dataset.max_tokens == 80 * 16_000


def test_the_chain_keeps_layers_of_the_teacher_and_the_teacher(
    build: Callable[..., SimpleNamespace], paths: dict[str, Path]
) -> None:
    """24 -> 12 -> 4: the last student starts from layers 0, 6, 12 and 18, and learns from the model of 24."""
    first = build(DISTILLATION / "large_960h_to_12l.yaml")
    path = paths["task.data"] / "stage1.pt"
    cfg = OmegaConf.create({"model": first.model.cfg, "task": first.cfg.task})
    state = {"cfg": OmegaConf.to_container(cfg, enum_to_str=True), "model": first.model.state_dict()}
    torch.save(state, path)
    second = build(DISTILLATION / "12l_to_4l.yaml", f"model.init_checkpoint={path}")
    assert second.criterion.teacher.header.architecture.encoder_layers == 24
    teacher = read_checkpoint(paths["criterion.teacher_checkpoint"]).model.state
    student = second.model.w2v_encoder.state_dict()
    for name, tensor in student.items():
        source = re.sub(r"encoder\.layers\.(\d+)", lambda match: f"encoder.layers.{6 * int(match[1])}", name)
        assert torch.equal(tensor, teacher[source]), name
    assert any("layers.3." in name for name in student)


@pytest.mark.parametrize(
    ("name", "processes", "batches"),
    [("local", 1, 4), ("local_4", 4, 1), ("local_8", 8, 1), ("slurm_1", 1, 4), ("slurm_4", 4, 1), ("slurm_8", 8, 1)],
)
def test_how_runs_are_spread(name: str, processes: int, batches: int) -> None:
    if name.startswith("slurm"):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    cfg = compose(
        DISTILLATION / "12l_to_4l.yaml", f"+run_config={name}", "checkpoint.save_dir=/runs/4l", with_hydra=True
    )
    assert cfg.distributed_training.distributed_world_size == processes
    assert cfg.optimization.update_freq == [batches]
    assert cfg.hydra.run.dir == "/runs/4l"
    assert cfg.hydra.job.chdir is False
    if name.startswith("slurm"):
        launcher = cfg.hydra.launcher
        assert launcher._target_.endswith("SlurmLauncher")
        assert launcher.nodes * launcher.tasks_per_node == launcher.nodes * launcher.gpus_per_node == processes
        assert cfg.hydra.mode.name == "MULTIRUN"  # else hydra launches nothing
        assert (processes == 1) == (cfg.distributed_training.distributed_port <= 0)


@pytest.mark.slow
def test_stock_fairseq_hydra_train_takes_the_folder(paths: dict[str, Path], noise_corpus: Path, tmp_path: Path) -> None:
    """The command of the docs, from the repository's root, without `common.user_dir`."""
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(noise_corpus / "train.tsv", data)
    (data / "train.ltr").write_text("A B |\n" * 12)
    Units.letters().write_dictionary(data / "dict.ltr.txt")
    checkpoint = paths["criterion.teacher_checkpoint"]
    command = [
        sys.executable,
        "-c",
        "from fairseq_cli.hydra_train import cli_main; cli_main()",
        *("--config-dir", "configs/distillation", "--config-name", "large_960h_to_12l"),
        f"checkpoint.save_dir={tmp_path}/run",
        f"task.data={data}",
        f"model.init_checkpoint={checkpoint}",
        f"criterion.teacher_checkpoint={checkpoint}",
        *("dataset.train_subset=train", "dataset.valid_subset=train", "dataset.num_workers=0"),
        *("optimization.max_update=2", "common.log_interval=1", "common.cpu=true", "common.fp16=false"),
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    log = (tmp_path / "run" / "hydra_train.log").read_text()
    assert '"num_updates": "2"' in log
    assert re.search(r'"train_wer": "[\d.]+"', log)
    student = read_checkpoint(tmp_path / "run" / "checkpoint_best.pt").model
    assert student.header.architecture.encoder_layers == 12
