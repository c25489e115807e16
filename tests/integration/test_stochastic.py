"""Elastic training with fairseq: points are equal on all ranks and after resuming, and select the best checkpoint."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from w2v_compress import compat
from w2v_compress.data.units import Units
from w2v_compress.interop.fairseq_checkpoint import read_checkpoint
from w2v_compress.model_file.storage import read_model
from w2v_compress.nn.compression import CompressionPoint, CompressionSpace
from w2v_compress.nn.encoder import Encoder

RECORDING = """
import os, sys, torch, w2v_compress.models
from w2v_compress.nn.encoder import Encoder
from fairseq.trainer import Trainer
from fairseq_cli.hydra_train import cli_main
points, trainers, forward, step = [], [], Encoder.forward, Trainer.train_step

def recorded(self, x, lengths, point, *arguments, **options):
    points.append(str(point))
    return forward(self, x, lengths, point, *arguments, **options)

def kept(self, *arguments, **options):
    trainers.append(self)
    return step(self, *arguments, **options)

Encoder.forward, Trainer.train_step, target = recorded, kept, sys.argv.pop(1)
cli_main()
torch.save({"points": points, "model": trainers[-1].get_model().state_dict()}, target + os.environ["RANK"])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stochastic")


@pytest.fixture(scope="module")
def finetuning(folder: Path, noise_corpus: Path, tiny_path: Path) -> tuple[str, ...]:
    """Overrides of fairseq-hydra-train to fine-tune a tiny recognizer on noise at sampled points."""
    data = folder / "data"
    data.mkdir()
    for split in ("train", "dev"):
        (data / f"{split}.tsv").write_text((noise_corpus / "train.tsv").read_text())
        (data / f"{split}.ltr").write_text("".join(f"{letter} E | {letter} A |\n" for letter in "TAOINSHRDLUC"))
    symbols = Units.letters().symbols[4:]
    (data / "dict.ltr.txt").write_text("".join(f"{symbol} 1\n" for symbol in symbols))
    return (
        "task=compressed_finetuning",
        f"task.data={data}",
        "task.labels=ltr",
        "task.normalize=true",
        "criterion=ctc",
        "criterion.zero_infinity=true",
        "model=compressed_ctc",
        f"model.w2v_path={tiny_path}",
        "model.feature_grad_mult=1.0",
        "dataset.num_workers=0",
        "dataset.batch_size=2",
        "dataset.required_batch_size_multiple=1",
        "dataset.valid_subset=dev",
        "dataset.disable_validation=true",
        "optimizer=adam",
        "lr_scheduler=fixed",
        "optimization.lr=[0.01]",
        "optimization.max_update=6",
        "checkpoint.no_epoch_checkpoints=true",
        "common.log_format=json",
        "common.log_interval=1",
        "common.seed=3",
        "common.cpu=true",
    )


@pytest.fixture
def points_run(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Points at which networks run in this process, in order."""
    import w2v_compress.models
    import w2v_compress.tasks  # noqa: F401  (registers)

    points: list[str] = []
    forward = Encoder.forward

    def recorded(self, x, lengths, point, *arguments, **options):
        points.append(str(point))
        return forward(self, x, lengths, point, *arguments, **options)

    monkeypatch.setattr(Encoder, "forward", recorded)
    return points


@pytest.fixture
def sampled(
    finetuning: tuple[str, ...], train: Callable[..., None], tmp_path: Path, points_run: list[str]
) -> Callable[..., list[str]]:
    """Return sampled(*overrides), which trains in this process and returns the points of all forward passes."""

    def run(*overrides: str) -> list[str]:
        points_run.clear()
        train(*finetuning, f"checkpoint.save_dir={tmp_path}", *overrides)
        return list(points_run)

    return run


@pytest.fixture
def no_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset the best value, which fairseq stores on a function, between runs in this process."""
    from fairseq import checkpoint_utils

    monkeypatch.setattr(checkpoint_utils.save_checkpoint, "best", float("inf"), raising=False)


def config(folder: Path, *overrides: str) -> list[str]:
    """Write the overrides to a file, and return options of fairseq-hydra-train that load it.

    On the command line, fairseq does not accept the names that a plugin registers.
    """
    named = [
        re.sub(r"^(task|criterion|model|optimizer|lr_scheduler)=", r"\1._name=", override) for override in overrides
    ]
    text = OmegaConf.to_yaml(OmegaConf.from_dotlist([*named, f"common.user_dir={compat.plugin.user_dir()}"]))
    (folder / "elastic.yaml").write_text("# @package _group_\n" + text)
    return ["--config-dir", str(folder), "--config-name", "elastic", f"hydra.run.dir={folder}"]


def expected(updates: int, **settings: object) -> list[str]:
    space = CompressionSpace(**settings)
    return [str(space.sample(3, update, layers=2)) for update in range(updates)]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return compat.load_checkpoint(path)["model"]


def test_points_are_equal_after_resuming_and_with_accumulation(
    sampled: Callable[..., list[str]], tmp_path: Path
) -> None:
    points = expected(6)
    assert len(set(points)) > 3
    assert sampled() == points
    whole = weights(tmp_path / "checkpoint_last.pt")
    assert sampled("optimization.max_update=3", f"checkpoint.save_dir={tmp_path / 'parts'}") == points[:3]
    assert sampled(f"checkpoint.save_dir={tmp_path / 'parts'}") == points[3:]
    resumed = weights(tmp_path / "parts" / "checkpoint_last.pt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    accumulated = sampled("optimization.update_freq=[3]", f"checkpoint.save_dir={tmp_path / 'accumulated'}")
    assert accumulated == [point for point in points for _ in range(3)]
    loaded = sampled("dataset.num_workers=1", f"checkpoint.save_dir={tmp_path / 'workers'}")
    assert loaded == points


def test_layer_wise_points_have_a_factor_for_each_layer(sampled: Callable[..., list[str]]) -> None:
    points = sampled("task.layer_wise=true", "optimization.max_update=5")
    assert points == expected(5, layer_wise=True)
    assert any(":" in point for point in points)


def test_a_single_point_is_the_only_one(sampled: Callable[..., list[str]]) -> None:
    assert set(sampled("task.point='2,1,2'", "optimization.max_update=2")) == {"2,1,2"}


def test_an_external_teacher_with_the_sandwich_rule(
    sampled: Callable[..., list[str]], tiny_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    distillation = ["criterion=ctc_distillation", f"criterion.teacher_checkpoint={tiny_path}"]
    distillation += ["criterion.teacher_precision=fp32", "task.sandwich=1", "task.inplace_distillation_weight=0.5"]
    points = sampled(*distillation, "optimization.max_update=2", "model.layerdrop=0.2", "model.apply_mask=true")
    first, second = expected(2)
    teacher = "1,1,1"  # the same class of network
    assert [point for point in points if point != teacher] == ["4,2,2", first, "4,2,2", second]


@pytest.mark.parametrize("backend", ["pytorch_ddp", "legacy_ddp"])
@pytest.mark.parametrize("points", ["sandwich", "parts"])
def test_two_processes_run_the_same_points_and_remain_equal(
    backend: str,
    points: str,
    folder: Path,
    finetuning: tuple[str, ...],
    sampled: Callable[..., list[str]],
    tiny_path: Path,
    tmp_path: Path,
    two_processes: Callable[..., str],
) -> None:
    """The result equals that of one process that accumulates both batches, with no setting but the backend.

    Upsampling for squeeze factors outside an update does not change.
    """
    elastic = ["task.squeeze=[1,2,3]", "optimization.max_update=3"]
    if points == "sandwich":
        elastic += ["task.sandwich=1", "task.inplace_distillation_weight=0.5"]
    else:
        elastic += ["task.points_per_batch=3"]
    elastic += ["model.learned_upsampling=[2,3,4]", "model.layerdrop=0.2", "optimizer.weight_decay=0.1"]
    elastic += ["dataset.batch_size=5"]  # three batches per epoch: one process gets a dummy fourth batch
    # Without this epsilon Adam makes much of the rounding of gradients that are 0.
    elastic += ["optimizer.adam_eps=1"]
    (folder / "recording.py").write_text(RECORDING)
    settings = [f"checkpoint.save_dir={folder / points / backend}", f"distributed_training.ddp_backend={backend}"]
    program = [str(folder / "recording.py"), str(folder / "rank")]
    two_processes(program, *config(folder, *finetuning, *elastic, *settings))
    first, second = (torch.load(folder / f"rank{rank}", weights_only=True) for rank in (0, 1))
    assert first["points"] == second["points"]
    space = CompressionSpace(squeeze=(1, 2, 3))
    for update in range(3):
        draws = [str(space.sample(3, update, 2, draw)) for draw in range(3)]
        given = ["1,1,1", "3,2,2", draws[0]] if points == "sandwich" else draws
        assert first["points"][3 * update : 3 * (update + 1)] == given
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])

    sampled(*elastic, "optimization.update_freq=[2]")
    alone, start = weights(tmp_path / "checkpoint_last.pt"), read_model(tiny_path).state
    for name, tensor in first["model"].items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-4, atol=1e-5)
    head = "w2v_encoder.proj.weight"
    assert (alone[head] - start[head.removeprefix("w2v_encoder.")]).abs().max() > 1e-3
    squeezes = {CompressionPoint.parse(point).squeeze for point in first["points"]}
    maps = {squeeze: alone[f"w2v_encoder.w2v_model.encoder.upsampling.{squeeze}.weight"] for squeeze in (2, 3, 4)}
    untouched = {squeeze for squeeze, weight in maps.items() if torch.equal(weight, torch.eye(32).repeat(squeeze, 1))}
    assert untouched == {2, 3, 4} - squeezes != set()


def test_the_moving_average_of_fairseq_is_exported(sampled: Callable[..., list[str]], tmp_path: Path) -> None:
    sampled("ema.store_ema=true", "ema.ema_decay=0.5", "ema.ema_fp32=true", "optimization.max_update=3")
    path = tmp_path / "checkpoint_last.pt"
    stored = compat.load_checkpoint(path)["extra_state"]["ema"]
    average, last = read_checkpoint(path, ema=True).model.state, read_checkpoint(path).model.state
    for name, tensor in average.items():
        torch.testing.assert_close(tensor, stored[f"w2v_encoder.{name}"])
    assert not torch.equal(average["proj.weight"], last["proj.weight"])


def test_the_best_checkpoint_is_selected_by_a_point(
    sampled: Callable[..., list[str]], tmp_path: Path, no_best: None
) -> None:
    from fairseq.logging import metrics

    validation = ["task.valid_points=['1,1,1','2,1,1']", "dataset.disable_validation=false", "dataset.batch_size=6"]
    validation += ["checkpoint.best_checkpoint_metric=wer_s2_q1_k1", "optimization.max_update=1"]
    assert sampled(*validation)[1:] == ["1,1,1", "2,1,1"] * 2
    best = compat.load_checkpoint(tmp_path / "checkpoint_best.pt")["extra_state"]["best"]
    assert best == metrics.get_smoothed_value("valid", "wer_s2_q1_k1")


def test_the_best_checkpoint_is_selected_by_the_mean(folder: Path, finetuning: tuple[str, ...]) -> None:
    """Run the command with `common.user_dir`, and check the logged metrics."""
    save_dir = folder / "best"
    save_dir.mkdir()
    settings = [f"checkpoint.save_dir={save_dir}", "checkpoint.best_checkpoint_metric=wer_mean"]
    settings += ["task.valid_points=['1,1,1','2,1,1','4,2,2']", "dataset.disable_validation=false"]
    settings += ["dataset.batch_size=5", "dataset.validate_interval_updates=1", "optimization.max_update=2"]
    command = [str(Path(sys.executable).with_name("fairseq-hydra-train")), *config(save_dir, *finetuning, *settings)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    logged = [json.loads(line) for line in re.findall(r"\[dev\]\[INFO\] - ({.*})", done.stdout + done.stderr)]
    assert len(logged) == 2
    labels = ("s1_q1_k1", "s2_q1_k1", "s4_q2_k2")
    for stats in logged:
        for name in ("loss", "wer", "uer"):
            values = [float(stats[f"dev_{name}_{label}"]) for label in labels]
            assert float(stats[f"dev_{name}_mean"]) == pytest.approx(sum(values) / 3, abs=6e-4)
            assert float(stats[f"dev_{name}"]) == values[0]
        assert len({stats[f"dev_loss_{label}"] for label in labels}) == 3
    best = compat.load_checkpoint(save_dir / "checkpoint_best.pt")["extra_state"]["best"]
    assert best == pytest.approx(min(float(stats["dev_wer_mean"]) for stats in logged))


@pytest.mark.parametrize(
    ("model", "squeeze", "points"),
    [("stochastic_sew", "[1,2,3]", ["2,1,2", "3,2,1"]), ("pooled_transformer", "[1]", ["1,2,2", "1,1,1"])],
)
def test_pretraining_validates_each_point_as_if_alone(
    pretraining: tuple[str, ...],
    train: Callable[..., None],
    tmp_path: Path,
    points_run: list[str],
    no_best: None,
    model: str,
    squeeze: str,
    points: list[str],
) -> None:
    """The masks of a batch are equal at all points, so the points are independent."""
    from fairseq.logging import metrics

    settings = [*pretraining, "task=compressed_pretraining", f"task.squeeze={squeeze}", f"model={model}"]
    settings += ["task.sandwich=1", "optimization.max_update=2", "dataset.disable_validation=false"]
    settings += ["dataset.valid_subset=train", "dataset.fixed_validation_seed=5", "dataset.batch_size=3"]
    settings += ["dataset.required_batch_size_multiple=1", "dataset.validate_after_updates=2"]

    def validated(*valid_points: str) -> dict[str, float]:
        chosen = ",".join(f"'{point}'" for point in valid_points)
        best = ["checkpoint.best_checkpoint_metric=loss_mean", f"checkpoint.save_dir={tmp_path / str(len(points_run))}"]
        train(*settings, *best, f"task.valid_points=[{chosen}]")
        return metrics.get_smoothed_values("valid")

    together = validated(*points)
    assert points_run[-8:] == points * 4
    assert len(points_run) == 2 * 3 + 8
    labels = [CompressionPoint.parse(point).label for point in points]
    for point, label in zip(points, labels, strict=True):
        alone = validated(point)
        for name in ("loss", "loss_0", "accuracy", "prob_perplexity"):
            assert together[f"{name}_{label}"] == alone[f"{name}_{label}"] == alone[name] == alone[f"{name}_mean"]
    mean = sum(together[f"loss_{label}"] for label in labels) / len(points)
    assert together["loss_mean"] == pytest.approx(mean, abs=1e-4)
