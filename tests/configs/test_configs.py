"""Every YAML file in configs/ is composed by hydra as fairseq-hydra-train does; recipes are also built and trained.

New files are found automatically: recipes in configs/FOLDER/, groups in configs/FOLDER/GROUP/.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import w2v_compress
import w2v_compress.models
import w2v_compress.tasks
from w2v_compress.data.units import Units
from w2v_compress.interop.fairseq_checkpoint import read_checkpoint, write_checkpoint
from w2v_compress.model_file.storage import ModelFile
from w2v_compress.nn.architecture import ARCHITECTURES

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"
DISTILLATION, PRETRAINING, FINETUNING = (CONFIGS / name for name in ("distillation", "pretraining", "finetuning"))
FILES = sorted(CONFIGS.rglob("*.yaml"))
RECIPES = [file for file in FILES if file.parent.parent == CONFIGS]


def name_of(file: Path) -> str:
    return str(file.relative_to(CONFIGS))


def recipe_and_group(file: Path) -> tuple[Path, list[str]]:
    """Return a recipe to compose the group file with, and the override that adds it."""
    folder, group = file.parent.parent, file.parent.name
    recipe = min(folder.glob("*.yaml"))
    defaults = OmegaConf.load(recipe).get("defaults", [])
    chosen = any(isinstance(entry, DictConfig) and group in entry for entry in defaults)
    return recipe, [f"{'' if chosen else '+'}{group}={file.stem}"]


@pytest.fixture(scope="module")
def compose(compose_recipe: Callable[..., Any]) -> Callable[..., Any]:
    """compose(recipe, *overrides, with_hydra=False) composes a configuration."""
    return lambda recipe, *overrides, with_hydra=False: compose_recipe(recipe, overrides, with_hydra)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., ModelFile]) -> dict[str, Path]:
    """Values for the required settings of recipes.

    One model has the layers of LARGE; both are wide enough for masked spans of 64 channels.
    """
    folder = tmp_path_factory.mktemp("configs")
    Units.letters().write_dictionary(folder / "dict.ltr.txt")
    write_checkpoint(folder / "24.pt", tiny_model(encoder_layers=24, encoder_embed_dim=256))
    base = tiny_model(encoder_embed_dim=256)
    write_checkpoint(
        folder / "base.pt", dataclasses.replace(base, header=dataclasses.replace(base.header, normalize=False))
    )
    return {
        "model.w2v_path": folder / "base.pt",
        "checkpoint.save_dir": folder / "checkpoints",
        "task.data": folder,
        "criterion.teacher_checkpoint": folder / "24.pt",
        "model.init_checkpoint": folder / "24.pt",
    }


@pytest.fixture(scope="module")
def build(paths: dict[str, Path], compose: Callable[..., Any]) -> Callable[..., SimpleNamespace]:
    """Return build(recipe, *overrides), which builds cfg, task, model, criterion, optimizer and lr_scheduler."""

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
        return SimpleNamespace(
            cfg=cfg, task=task, model=model, criterion=criterion, optimizer=optimizer, lr_scheduler=scheduler
        )

    return run


def train_a_little(built: SimpleNamespace) -> None:
    """Train for one update on two utterances of 0.5 s, or for two updates at different compression points."""
    sample = {
        "id": torch.arange(2),
        "net_input": {"source": torch.randn(2, 8000), "padding_mask": torch.zeros(2, 8000, dtype=torch.bool)},
        "target": torch.tensor([[5, 6, 7], [8, 9, 10]]),
        "target_lengths": torch.tensor([3, 3]),
        "ntokens": 6,
    }
    last = built.cfg.optimization.max_update  # nothing is frozen at the end
    steps = 2 if hasattr(built.task, "compression_space") else 1
    for update in range(last - steps, last):
        built.optimizer.zero_grad()
        loss, size, _ = built.task.train_step(sample, built.model, built.criterion, built.optimizer, update)
        assert torch.isfinite(loss)
        assert loss > 0
        gradients = [parameter.grad for parameter in built.model.parameters() if parameter.grad is not None]
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
        assert any(gradient.any() for gradient in gradients)
        assert size > 0


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_every_recipe_composes_and_trains(recipe: Path, build: Callable[..., SimpleNamespace]) -> None:
    depth = ["++model.encoder_layers=1"] if recipe.parent == PRETRAINING else []  # the width is the recipe's
    built = build(recipe, *depth)
    train_a_little(built)
    assert (REPOSITORY / built.cfg.common.user_dir).samefile(Path(w2v_compress.__file__).parent)


@pytest.mark.parametrize(
    "overrides",
    [
        ("task.sandwich=1", "task.inplace_distillation_weight=1.0"),
        ("task.point='2,1,1'", "task.valid_points=[]"),
        ('task.points=["1,1,1","4,2,2"]',),
        (
            "criterion._name=ctc_distillation",
            "+criterion.teacher_checkpoint=TEACHER",
            "+criterion.ctc_weight=0.5",
            "+criterion.features_penalty_weight=0",
        ),
    ],
    ids=["sandwich", "one point", "listed points", "external teacher"],
)
def test_options_of_elastic_fine_tuning(
    overrides: tuple[str, ...], paths: dict[str, Path], build: Callable[..., SimpleNamespace]
) -> None:
    teacher = str(paths["model.w2v_path"])
    train_a_little(build(FINETUNING / "elastic_10h.yaml", *(each.replace("TEACHER", teacher) for each in overrides)))


@pytest.mark.parametrize("file", sorted({*FILES} - {*RECIPES}), ids=name_of)
def test_every_group_file_composes_with_a_recipe(
    file: Path, paths: dict[str, Path], compose: Callable[..., Any]
) -> None:
    if "slurm" in file.name:
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    recipe, group = recipe_and_group(file)
    cfg = compose(recipe, *group)
    assert OmegaConf.missing_keys(cfg) <= paths.keys()
    group_file = OmegaConf.load(file)
    assert group_file.keys() - {"hydra", "defaults"} <= cfg.keys()


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        (DISTILLATION, {"large_960h_to_12l", "12l_to_4l", "large_960h_to_12l_plus", "12l_to_4l_plus"}),
        (PRETRAINING, {"wav2vec2_base", "stochastic_base", "stochastic_base_400k", "pooled_base"}),
        (PRETRAINING, {"sew_tiny", "sew_small", "sew_mid"}),
        (FINETUNING, {"base_10h", "base_100h", "elastic_10h", "elastic_retrofit_10h", "sew_10h"}),
    ],
)
def test_all_recipes_are_found(folder: Path, expected: set[str]) -> None:
    """The parametrized tests above need at least these files."""
    assert {path.stem.removesuffix("_librispeech") for path in folder.glob("*.yaml")} >= expected
    assert {path.stem for path in (folder / "run_config").glob("*.yaml")} >= {"local", "slurm_1", "slurm_8"}


@pytest.mark.parametrize(("name", "layers"), [("large_960h_to_12l", 12), ("12l_to_4l", 4)])
def test_values_of_the_paper_recipes(name: str, layers: int, build: Callable[..., SimpleNamespace]) -> None:
    """Values are those of Peng et al. 2021 and its released code."""
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
    # One process accumulates the batches of four GPUs; LibriSpeech 960 h has 281,241 utterances.
    assert (cfg.dataset.batch_size, cfg.optimization.update_freq, cfg.dataset.max_tokens) == (1, [4], None)
    epoch = -(-281_241 // 4)
    rates = {updates: built.lr_scheduler.step_update(updates) for updates in (epoch, 2 * epoch, 31 * epoch, 60 * epoch)}
    assert list(rates.values()) == pytest.approx([2.5e-5, 5e-5, 2.5e-5, 0], abs=1e-12)
    assert cfg.optimization.max_update == 60 * epoch


def test_adam_of_fairseq_has_decoupled_weight_decay() -> None:
    """One step with a zero gradient shrinks a weight by lr x decay, independent of its size."""
    from fairseq.optim.adam import Adam

    weights = torch.nn.Parameter(torch.tensor([1.0, 100.0]))
    weights.grad = torch.zeros(2)
    Adam([weights], lr=0.1, weight_decay=0.01).step()
    torch.testing.assert_close(weights.data, torch.tensor([1.0, 100.0]) * (1 - 0.1 * 0.01))


@pytest.mark.parametrize(("name", "layers"), [("large_960h_to_12l_plus", 12), ("12l_to_4l_plus", 4)])
def test_values_of_the_improved_recipes(name: str, layers: int, build: Callable[..., SimpleNamespace]) -> None:
    built = build(DISTILLATION / f"{name}.yaml")
    loss, student = built.criterion.cfg, built.model.cfg
    assert built.model.w2v_encoder.architecture.encoder_layers == layers
    assert (loss.temperature, loss.reduction) == (2, "valid_frames")
    assert (loss.kl_weight, loss.ctc_weight, loss.hidden_weight) == (1, 0.1, 0.5)
    assert built.criterion.pairs[-1] == (24, layers)
    assert len(built.criterion.pairs) == layers
    assert (student.apply_mask, student.layerdrop) == (True, 0)
    assert built.cfg.dataset.max_tokens == 80 * 16_000


def test_the_second_stage_copies_layers_and_has_the_same_teacher(
    build: Callable[..., SimpleNamespace], paths: dict[str, Path]
) -> None:
    """24 -> 12 -> 4: the last student has layers 0, 6, 12 and 18, and the 24-layer model as its teacher."""
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


def settings(cfg: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested settings by dotted name."""
    if not isinstance(cfg, dict):
        return {prefix.removesuffix("."): cfg}
    return {name: value for key in cfg for name, value in settings(cfg[key], f"{prefix}{key}.").items()}


@pytest.mark.parametrize(
    ("recipe", "stock", "ours"),
    [
        ("pretraining/wav2vec2_base_librispeech", "pretraining/wav2vec2_base_librispeech", {}),
        (
            "pretraining/stochastic_base_librispeech",
            "pretraining/wav2vec2_base_librispeech",
            {
                "model._name": "stochastic_sew",
                "task._name": "compressed_pretraining",
                "optimization.max_update": 100_000,
            },
        ),
        (
            "pretraining/stochastic_base_400k_librispeech",
            "pretraining/wav2vec2_base_librispeech",
            {"model._name": "stochastic_sew", "task._name": "compressed_pretraining"},
        ),
        (
            "pretraining/pooled_base_librispeech",
            "pretraining/wav2vec2_base_librispeech",
            {
                "model._name": "pooled_transformer",
                "task._name": "compressed_pretraining",
                "optimization.max_update": 100_000,
            },
        ),
        (
            "pretraining/sew_tiny_librispeech",
            "pretraining/wav2vec2_base_librispeech",
            {"model._name": "sew", "model.encoder_embed_dim": 512, "optimization.max_update": 100_000},
        ),
        (
            "pretraining/sew_small_librispeech",
            "pretraining/wav2vec2_base_librispeech",
            {"model._name": "sew", "optimization.max_update": 100_000},
        ),
        (
            "pretraining/sew_mid_librispeech",
            "pretraining/wav2vec2_base_librispeech",
            {"model._name": "sew", "model.encoder_layerdrop": 0.2, "optimization.max_update": 100_000},
        ),
        ("finetuning/base_10h", "finetuning/base_10h", {}),
        ("finetuning/base_100h", "finetuning/base_100h", {}),
        (
            "finetuning/sew_10h",
            "finetuning/base_10h",
            {
                "optimization.lr": [1e-5],
                "dataset.validate_after_updates": 0,
                "model.freeze_finetune_updates": 0,
            },
        ),
        (
            "finetuning/elastic_10h",
            "finetuning/base_10h",
            {"task._name": "compressed_finetuning", "checkpoint.best_checkpoint_metric": "wer_mean"},
        ),
        (
            "finetuning/elastic_retrofit_10h",
            "finetuning/base_10h",
            {
                "task._name": "compressed_finetuning",
                "checkpoint.best_checkpoint_metric": "wer_mean",
                "dataset.validate_after_updates": 0,
                "model.freeze_finetune_updates": 0,
            },
        ),
    ],
)
def test_recipes_differ_from_fairseqs_only_in_listed_values(
    recipe: str, stock: str, ours: dict[str, Any], compose: Callable[..., Any]
) -> None:
    import fairseq

    theirs = OmegaConf.load(Path(fairseq.__file__).parent / "examples" / "wav2vec" / "config" / f"{stock}.yaml")
    expected = settings(OmegaConf.to_container(theirs))
    batches = expected.pop("distributed_training.distributed_world_size")
    batches *= expected.pop("optimization.update_freq", [1])[0]
    if "finetuning" in stock:
        expected |= {"dataset.valid_subset": "dev-other", "model._name": "compressed_ctc"}
    found = settings(OmegaConf.to_container(compose(CONFIGS / f"{recipe}.yaml"), enum_to_str=True))
    assert found["distributed_training.distributed_world_size"] == 1
    assert found["optimization.update_freq"] == [batches]
    assert {name: found[name] for name in expected} == expected | ours
    if "pretraining" in stock:  # the learning rates are those of 400,000 updates in shorter runs too
        assert found["lr_scheduler.total_num_update"] == 400_000


@pytest.mark.parametrize(
    ("size", "width", "heads", "layers"), [("tiny", 512, 8, 12), ("small", 768, 12, 12), ("mid", 768, 12, 24)]
)
def test_sizes_of_sew(
    size: str,
    width: int,
    heads: int,
    layers: int,
    build: Callable[..., SimpleNamespace],
    compose: Callable[..., Any],
) -> None:
    """Sizes are those of Wu et al. 2021, table 1, and of the named architectures."""
    architecture = ARCHITECTURES[f"sew-{size}"]
    built = build(PRETRAINING / f"sew_{size}_librispeech.yaml", "++model.encoder_layers=1")
    encoder = built.model.encoder
    assert compose(PRETRAINING / f"sew_{size}_librispeech.yaml").model.encoder_layers == layers
    assert (architecture.encoder_embed_dim, architecture.encoder_layers) == (width, layers)
    assert encoder.layers[0].fc1.weight.shape == (4 * width, width)
    assert encoder.layers[0].self_attn.heads == architecture.encoder_attention_heads == heads
    convolutions = [layer.get_submodule("0") for layer in built.model.feature_extractor.conv_layers]
    shapes = tuple((len(each.weight), each.kernel, each.stride) for each in convolutions)
    assert shapes == architecture.conv_layers
    assert list(encoder.upsampling) == ["2"]


@pytest.mark.parametrize(
    ("folder", "name", "processes", "batches"),
    [
        *(
            (DISTILLATION, *row)
            for row in (("local", 1, 4), ("local_4", 4, 1), ("local_8", 8, 1), ("slurm_1", 1, 4), ("slurm_4", 4, 1))
        ),
        (DISTILLATION, "slurm_8", 8, 1),
        *((PRETRAINING, *row) for row in (("local", 1, 64), ("local_8", 8, 8), ("slurm_1", 1, 64), ("slurm_8", 8, 8))),
        *((FINETUNING, *row) for row in (("local", 1, 8), ("local_8", 8, 1), ("slurm_1", 1, 8), ("slurm_8", 8, 1))),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else str(value),
)
def test_processes_and_accumulated_batches(
    folder: Path, name: str, processes: int, batches: int, compose: Callable[..., Any]
) -> None:
    if name.startswith("slurm"):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    cfg = compose(min(folder.glob("*.yaml")), f"+run_config={name}", "checkpoint.save_dir=/runs/4l", with_hydra=True)
    assert cfg.distributed_training.distributed_world_size == processes
    assert cfg.optimization.update_freq == [batches]
    assert cfg.hydra.run.dir == "/runs/4l"
    assert cfg.hydra.job.chdir is False
    if name.startswith("slurm"):
        launcher = cfg.hydra.launcher
        assert launcher._target_.endswith("SlurmLauncher")
        assert launcher.nodes * launcher.tasks_per_node == launcher.nodes * launcher.gpus_per_node == processes
        assert cfg.hydra.mode.name == "MULTIRUN"  # hydra uses a launcher only in this mode
        assert cfg.hydra.sweep.dir == "/runs/4l"
        assert (processes == 1) == (cfg.distributed_training.distributed_port <= 0)
