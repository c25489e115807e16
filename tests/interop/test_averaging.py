"""Selection and averaging of the exported checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from w2v_compress.compat import load_checkpoint
from w2v_compress.interop.averaging import last_checkpoints
from w2v_compress.interop.fairseq_checkpoint import write_checkpoint
from w2v_compress.model_file.storage import ModelFile, read_model

Run = Callable[..., tuple[int, str, str]]
NAMES = ("checkpoint_1_2.pt", "checkpoint_1_10.pt", "checkpoint_2_30.pt", "checkpoint1.pt", "checkpoint2.pt")


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Callable[..., ModelFile]) -> Path:
    """Checkpoints of a run. The tensors of each are those of the tiny model plus its index in `NAMES`."""
    folder = tmp_path / "run"
    folder.mkdir()
    model = tiny_model()
    for place, name in enumerate((*NAMES, "checkpoint_last.pt")):
        state = {key: tensor + place for key, tensor in model.state.items()}
        write_checkpoint(folder / name, ModelFile(model.header, state))
        if name == "checkpoint_1_10.pt":
            continue
        checkpoint = load_checkpoint(folder / name)
        ema = {key: tensor + 100 for key, tensor in checkpoint["model"].items()}
        exact = {"w2v_encoder.proj.bias": ema["w2v_encoder.proj.bias"] + 0.5}
        extra = {"ema": ema} | ({"ema_fp32_params": exact} if name == "checkpoint2.pt" else {})
        torch.save(checkpoint | {"extra_state": extra}, folder / name)
    return folder


def added(path: Path, model: ModelFile, name: str = "proj.weight") -> float:
    """Return the constant by which a tensor differs from that of the tiny model."""
    difference = read_model(path).state[name] - model.state[name]
    assert difference.std() < 1e-5
    return float(difference.mean())


@pytest.mark.parametrize(
    ("sources", "options", "expected", "message"),
    [
        (["checkpoint_2_30.pt"], [], 2, "units"),
        (["checkpoint_2_30.pt"], ["--average", 2], 1.5, "mean of checkpoint_2_30.pt, checkpoint_1_10.pt; units"),
        (["checkpoint_1_10.pt"], ["--average", 2], 0.5, "mean of checkpoint_1_10.pt, checkpoint_1_2.pt; units"),
        (["checkpoint2.pt"], ["--average", 2], 3.5, "mean of checkpoint2.pt, checkpoint1.pt; units"),
        ([""], ["--average", 3], 1, "mean of checkpoint_2_30.pt, checkpoint_1_10.pt, checkpoint_1_2.pt; units"),
        (["checkpoint_last.pt", "checkpoint_1_2.pt"], ["--average", 2], 2.5, "mean of checkpoint_last.pt, checkpoint_"),
        (["checkpoint_last.pt"], ["--ema"], 105, "units"),
        (["checkpoint2.pt"], ["--average", 2, "--ema"], 103.5, "mean of checkpoint2.pt, checkpoint1.pt; units"),
    ],
)
def test_exported_weights(
    run: Run,
    folder: Path,
    tmp_path: Path,
    tiny_model: Callable[..., ModelFile],
    sources: list[str],
    options: list[Any],
    expected: float,
    message: str,
) -> None:
    out = tmp_path / "out.safetensors"
    status, printed, err = run("export", *(folder / source for source in sources), out, *options)
    assert (status, err) == (0, "")
    assert f"MB, {message}" in printed
    assert added(out, tiny_model()) == pytest.approx(expected, abs=1e-5)


def test_moving_average_is_read_in_fp32(
    run: Run, folder: Path, tmp_path: Path, tiny_model: Callable[..., ModelFile]
) -> None:
    out = tmp_path / "out.safetensors"
    assert run("export", folder / "checkpoint2.pt", out, "--ema")[0] == 0
    assert added(out, tiny_model(), "proj.bias") == pytest.approx(104.5)
    assert added(out, tiny_model()) == pytest.approx(104, abs=1e-5)


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        (["checkpoint_2_30.pt"], ["--average", 4], "cannot average 4 checkpoints: there are 3 up to this one"),
        (["checkpoint_last.pt"], ["--average", 2], "give one that fairseq numbered"),
        (["checkpoint_9_90.pt"], ["--average", 2], "no such file"),
        (["checkpoint_1_10.pt"], ["--ema"], "no moving average of the weights; train with ema.store_ema"),
        (["checkpoint_2_30.pt"], ["--average", 2, "--ema"], "checkpoint_1_10.pt: it holds no moving average"),
        (["checkpoint_1_2.pt", "other.pt"], ["--average", 2], "other.pt: cannot be averaged with"),
    ],
)
def test_averaging_errors_print_one_line(
    run: Run,
    folder: Path,
    tmp_path: Path,
    tiny_model: Callable[..., ModelFile],
    sources: list[str],
    options: list[Any],
    message: str,
) -> None:
    write_checkpoint(folder / "other.pt", tiny_model(encoder_layers=3))
    status, out, err = run("export", *(folder / source for source in sources), tmp_path / "out.safetensors", *options)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert message in err
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    "arguments", [["a.pt", "b.pt", "out"], ["a.pt", "b.pt", "c.pt", "out", "--average", "2"], ["out", "--average", "2"]]
)
def test_wrong_number_of_files_is_a_usage_error(run: Run, arguments: list[str]) -> None:
    status, _, err = run("export", *arguments)
    assert status == 2
    assert "--average" in err


def test_checkpoints_by_update_are_preferred_to_those_by_epoch(folder: Path) -> None:
    assert [path.name for path in last_checkpoints(folder, 2)] == ["checkpoint_2_30.pt", "checkpoint_1_10.pt"]
