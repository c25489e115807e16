"""examples/librispeech: the commands of the scripts, their errors, and skipping of finished steps."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import typer

from w2v_compress.cli.app import app
from w2v_compress.data.manifest import read_manifest
from w2v_compress.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "librispeech"
SCRIPTS = sorted(path.name for path in EXAMPLE.glob("*.sh"))
Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """script(name, argument, ..., SETTING=value) runs a script with OUT in `tmp_path`."""

    def run(name: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name not in ("GPUS", "NODES", "PARTITION")}
        installed = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment |= {"OUT": str(tmp_path / "out"), "PATH": installed} | settings
        command = ["bash", str(EXAMPLE / name), *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def commands(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    assert done.returncode == 0, done.stdout + done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines() if not line.startswith("#")]


Composed = Callable[[list[str]], Any]


@pytest.fixture
def composed(compose_recipe: Callable[[Path, list[str]], Any]) -> Composed:
    """composed(command) composes the configuration of a training command."""

    def compose(command: list[str]) -> Any:
        arguments = command[command.index("--config-dir") :]
        assert arguments[::2][:2] == ["--config-dir", "--config-name"]
        return compose_recipe(REPOSITORY / arguments[1] / f"{arguments[3]}.yaml", arguments[4:])

    return compose


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_valid_and_start_with_their_commands(name: str) -> None:
    subprocess.run(["bash", "-n", str(EXAMPLE / name)], check=True)
    if name != "common.sh":
        lines = (EXAMPLE / name).read_text().splitlines()
        header = lines[: lines.index("")]
        assert os.access(EXAMPLE / name, os.X_OK)
        assert header[0] == "#!/usr/bin/env bash"
        comment = " ".join(header)
        assert f"examples/librispeech/{name}" in comment
        assert all(place in comment for place in ("one GPU", "one node", "nodes"))


def test_the_complete_recipe_in_a_dry_run(script: Script, composed: Composed, tmp_path: Path) -> None:
    """Each configuration composes, each command parses, and each input is the output of an earlier command."""
    given = commands(script("all.sh", DRY_RUN="1"))
    assert not (tmp_path / "out").exists()
    trained, written = [], set()
    for command in given:
        if command[0] == "fairseq-hydra-train":
            cfg = composed(command)
            assert cfg.distributed_training.distributed_world_size == 1
            assert cfg.optimization.update_freq == [64 if "pretraining" in command[2] else 8]
            if "finetuning" in command[2]:
                assert cfg.model.w2v_path in written
                assert cfg.criterion.get("teacher_checkpoint", cfg.model.w2v_path) in written
            else:
                assert cfg.optimization.max_update == 100_000
            written |= {f"{cfg.checkpoint.save_dir}/checkpoint_{name}.pt" for name in ("best", "last")}
            trained.append(Path(cfg.checkpoint.save_dir).name)
        elif command[0] == "w2v-compress":
            context = typer.main.get_command(app).make_context("w2v-compress", command[1:])
            subcommand = context.command.commands[command[1]]
            subcommand.make_context(command[1], command[2:])
            if command[1] == "export":
                assert command[2] in written
                written.add(command[3])
            elif command[1] == "sweep":
                assert command[2] in written
    pinned = [f"pinned_s{squeeze}" for squeeze in range(1, 5)]
    assert trained[:6] == [*pinned, "stochastic_base_librispeech", "sew_small_librispeech"]
    assert trained[6:11] == [*pinned, "sew_small"]
    assert trained[11:] == ["elastic", "stochastic_to_s2", "stochastic_to_s4", "retrofit", "distilled"]


def test_baselines_differ_from_the_stochastic_model_only_in_their_point(script: Script, composed: Composed) -> None:
    configurations = [composed(each) for each in commands(script("all.sh", DRY_RUN="1")) if "pretraining" in str(each)]
    names = [Path(cfg.checkpoint.save_dir).name for cfg in configurations]
    tasks = {name: dict(cfg.task) for name, cfg in zip(names, configurations, strict=True)}
    elastic = tasks["stochastic_base_librispeech"]
    models = {str(cfg.model) for name, cfg in zip(names, configurations, strict=True) if "sew_small" not in name}
    assert len(models) == 1
    for squeeze in range(1, 5):
        task = tasks[f"pinned_s{squeeze}"]
        assert task["point"] == f"{squeeze},1,1"
        assert {name for name in elastic if task[name] != elastic[name]} == {"point", "valid_points"}


def test_the_chain_of_shrinking_bigfoot(script: Script, composed: Composed) -> None:
    given = commands(script("distil.sh", "chain", "large.pt", DRY_RUN="1", GPUS="4"))
    first, second = (composed(command) for command in given if command[0] == "fairseq-hydra-train")
    assert first.model.init_checkpoint == first.criterion.teacher_checkpoint == "large.pt"
    assert second.model.init_checkpoint == f"{first.checkpoint.save_dir}/checkpoint_best.pt"
    assert second.criterion.teacher_checkpoint == "large.pt"
    assert (second.distributed_training.distributed_world_size, second.optimization.update_freq) == (4, [1])


@pytest.mark.parametrize(("gpus", "nodes"), [("1", "1"), ("8", "1"), ("8", "4")])
def test_slurm(script: Script, composed: Composed, gpus: str, nodes: str) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    settings = {"DRY_RUN": "1", "GPUS": gpus, "NODES": nodes, "PARTITION": "gpu"}
    command, _ = commands(script("pretrain.sh", "stochastic_base_librispeech", **settings))
    cfg = composed(command)
    launcher, processes = cfg.hydra.launcher, int(gpus) * int(nodes)
    assert (launcher.partition, launcher.nodes) == ("gpu", int(nodes))
    assert launcher.tasks_per_node == launcher.gpus_per_node == int(gpus)
    assert cfg.distributed_training.distributed_world_size == processes
    assert cfg.optimization.update_freq == [64 // processes]
    assert (cfg.distributed_training.distributed_port > 0) == (processes > 1)


def test_nodes_without_slurm(script: Script, composed: Composed) -> None:
    settings = {"DRY_RUN": "1", "GPUS": "8", "NODES": "2", "MASTER": "node1:29500"}
    command, _ = commands(script("pretrain.sh", "stochastic_base_librispeech", "common.bf16=true", **settings))
    assert command[:3] == ["torchrun", "--nnodes", "2"]
    assert command[command.index("--rdzv_endpoint") + 1] == "node1:29500"
    cfg = composed(command)
    assert (cfg.distributed_training.distributed_world_size, cfg.optimization.update_freq) == (16, [4])
    assert cfg.common.bf16


@pytest.mark.parametrize(
    ("name", "arguments", "settings", "message"),
    [
        ("pretrain.sh", [], {}, "usage: pretrain.sh CONFIG"),
        ("pretrain.sh", ["sew_huge"], {}, "configs/pretraining/sew_huge.yaml does not exist"),
        ("pretrain.sh", ["sew_tiny_librispeech"], {}, "data/dict.ltr.txt does not exist; run prepare.sh first"),
        ("pretrain.sh", ["sew_tiny_librispeech"], {"GPUS": "3"}, "GPUS x NODES is 3; it must divide the 64 batches"),
        ("pretrain.sh", ["sew_tiny_librispeech"], {"GPUS": "no"}, "must be whole numbers of at least 1"),
        ("pretrain.sh", ["sew_tiny_librispeech"], {"NODES": "2", "DRY_RUN": "1"}, "set PARTITION, or on each"),
        ("finetune.sh", ["a", "base_10h"], {}, "usage: finetune.sh NAME CONFIG SOURCE"),
        ("finetune.sh", ["a", "base_10h", "nothing"], {}, "SOURCE must be a checkpoint or a pre-training of"),
        ("distil.sh", ["sideways", "t.pt"], {"DRY_RUN": "1"}, "sideways is neither elastic nor chain"),
        ("distil.sh", ["elastic", "t.pt"], {"DRY_RUN": "1"}, "usage: distil.sh elastic TEACHER SOURCE"),
        ("sweep.sh", [], {}, "contains no model.safetensors; run finetune.sh first"),
        ("tables.sh", [], {}, "sweeps does not exist; run sweep.sh first"),
        ("all.sh", [], {"MASTER": "node1:1", "DRY_RUN": "1"}, "fine-tuning is for one node"),
    ],
)
def test_errors_are_one_line(
    name: str, arguments: list[str], settings: dict[str, str], message: str, script: Script
) -> None:
    done = script(name, *arguments, **settings)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{name}: ")
    assert message in line


def test_a_training_continues_until_it_has_finished_and_is_then_skipped(script: Script, tmp_path: Path) -> None:
    """Uses a replacement of fairseq-hydra-train that fails once."""
    (tmp_path / "bin").mkdir()
    stand_in = tmp_path / "bin" / "fairseq-hydra-train"
    stand_in.write_text('#!/usr/bin/env bash\necho "$@" >> calls\n[ "$(wc -l < calls)" -gt 1 ]\n')
    stand_in.write_text(stand_in.read_text().replace("calls", str(tmp_path / "calls")))
    stand_in.chmod(0o755)
    data = tmp_path / "out" / "data"
    data.mkdir(parents=True)
    (data / "dict.ltr.txt").touch()
    folder = tmp_path / "out" / "pretrain" / "sew_tiny_librispeech"
    folder.mkdir(parents=True)
    path = f"{stand_in.parent}:{os.environ['PATH']}"
    codes = [script("pretrain.sh", "sew_tiny_librispeech", PATH=path).returncode for _ in range(3)]
    assert codes == [1, 0, 0]
    first, second = (tmp_path / "calls").read_text().splitlines()
    assert first == second
    assert (folder / "finished").exists()


def archive(folder: Path, name: str, speakers: dict[str, str]) -> None:
    """Write an archive with the layout of the corpora: an utterance of half a second for each folder of a speaker."""
    source = folder / "source" / name
    for place, utterance in speakers.items():
        chapter = source / place
        chapter.mkdir(parents=True)
        soundfile.write(chapter / f"{utterance}.flac", np.random.default_rng(0).normal(scale=0.1, size=8000), 16_000)
        (chapter / f"{utterance.rpartition('-')[0]}.trans.txt").write_text(f"{utterance} GO ON\n")
    with tarfile.open(folder / name, "w:gz") as packed:
        for top in sorted(source.iterdir()):
            packed.add(top, arcname=top.name)


def test_preparation(script: Script, tmp_path: Path) -> None:
    """From archives that are there: every split, the 960 and the ten hours, and nothing a second time."""
    archives = tmp_path / "archives"
    splits = ["dev-clean", "dev-other", "test-clean", "test-other"]
    splits += ["train-clean-100", "train-clean-360", "train-other-500"]
    for number, split in enumerate(splits):
        archive(archives, f"{split}.tar.gz", {f"LibriSpeech/{split}/{number}/7": f"{number}-7-0000"})
    parts = ("9h/clean/40", "9h/other/41", "1h/0/clean/40", "1h/5/other/42")
    ten_hours = {f"librispeech_finetuning/{part}/7": f"{part[-2:]}-7-000{index}" for index, part in enumerate(parts)}
    archive(archives, "librispeech_finetuning.tgz", ten_hours)
    done = script("prepare.sh", ARCHIVES=str(archives))
    assert done.returncode == 0, done.stderr
    data = tmp_path / "out" / "data"
    for split in (*splits[:5], "train-960", "train-10h"):
        expected = {"train-960": 3, "train-10h": 4}.get(split, 1)
        utterances = read_manifest(data, split)
        assert len(utterances) == expected
        assert {utterance.text for utterance in utterances} == {"GO ON"}
    again = script("prepare.sh", ARCHIVES=str(archives))
    assert "tar" not in again.stdout
    assert "finished" in again.stdout


@pytest.fixture
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("librispeech_tables", EXAMPLE / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables(tables: ModuleType, tmp_path: Path, tiny_path: Path, wav: Callable[..., Path], run: Callable) -> None:
    """Tables of files written by `w2v-compress sweep`."""
    (tmp_path / "corpus").mkdir()
    for index in range(2):
        wav(f"corpus/{index}.wav", 1, seed=index)
    (tmp_path / "corpus" / "utterances.csv").write_text("path,text,split\n0.wav,GO ON,test\n1.wav,GO,test\n")
    assert run("prepare", "csv", tmp_path / "corpus", tmp_path / "data")[0] == 0
    (tmp_path / "sweeps").mkdir()
    result = tmp_path / "sweeps" / "tiny.json"
    arguments = ("--points", "1,1,1 2,1,1", "--json", result)
    assert run("sweep", tiny_path, tmp_path / "data", *arguments)[0] == 0
    text = tables.tables(tmp_path / "sweeps")
    points = {row["point"]: row for row in json.loads(result.read_text())["points"]}
    rows = [line for line in text.splitlines() if line.startswith("| " + tiny_path.parent.name)]
    lines = [re.split(r" *\| *", row)[1:] for row in rows]
    assert [line[1] for line in lines] == sorted(points, key=lambda point: points[point]["real_time_factor"])
    for line in lines:
        assert line[2].startswith(f"{100 * points[line[1]]['wer']['value']:.2f}%")
    assert text.startswith("## test\n")
    (tmp_path / "sweeps" / "other.json").write_text("{}")
    with pytest.raises(InputError, match=r"other.json: is not a file written by `w2v-compress sweep --json`"):
        tables.tables(tmp_path / "sweeps")
    with pytest.raises(InputError, match="contains no sweep"):
        tables.tables(tmp_path)
