"""fairseq's checkpoints survive kills, full disks and damage."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from w2v_compress import compat
from w2v_compress.errors import InputError


@pytest.fixture
def fairseq() -> Any:
    compat.apply()
    from fairseq import checkpoint_utils

    return checkpoint_utils


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """/dev/full takes the place of every file that is opened for writing."""
    stock = open

    def opened(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        return stock("/dev/full" if "w" in mode else path, mode, *arguments, **options)

    monkeypatch.setattr("builtins.open", opened)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return


def checkpoint(path: Path, update: int) -> None:
    compat.apply()
    from fairseq import checkpoint_utils

    state = {
        "model": {"weight": torch.zeros(1000)},
        "optimizer_history": [{"num_updates": update, "lr_scheduler_state": {}}],
        "args": None,
    }
    checkpoint_utils.torch_persistent_save(
        state | {"cfg": {"model": {}}, "extra_state": {"epoch": 1, "train_iterator": {"epoch": 1}}}, str(path)
    )
    os.utime(path, (update, update))


def update_of(state: dict[str, Any]) -> int:
    return state["optimizer_history"][-1]["num_updates"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def test_a_damaged_last_checkpoint_gives_way_to_the_newest_whole_one(
    fairseq: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    last = tmp_path / "checkpoint_last.pt"
    for name, update in (("checkpoint_1_100.pt", 100), ("checkpoint_1_200.pt", 200), ("checkpoint_1_300.pt", 300)):
        checkpoint(tmp_path / name, update)
    checkpoint(last, 400)
    assert update_of(fairseq.load_checkpoint_to_cpu(str(last))) == 400
    cut(last)
    cut(tmp_path / "checkpoint_1_300.pt")
    os.utime(tmp_path / "checkpoint_1_300.pt", (300, 300))
    with caplog.at_level(logging.WARNING):
        assert update_of(fairseq.load_checkpoint_to_cpu(str(last))) == 200
    assert "checkpoint_last.pt: is not a fairseq checkpoint, or is damaged" in caplog.text
    assert f"training goes on from {tmp_path / 'checkpoint_1_200.pt'}" in caplog.text


def test_without_another_or_by_another_name_damage_is_an_error(fairseq: Any, tmp_path: Path) -> None:
    last, chosen = tmp_path / "checkpoint_last.pt", tmp_path / "checkpoint_1_100.pt"
    checkpoint(last, 100)
    cut(last)
    with pytest.raises(InputError, match=r"checkpoint_last.pt: is not a fairseq checkpoint, or is damaged"):
        fairseq.load_checkpoint_to_cpu(str(last))
    checkpoint(chosen, 100)
    checkpoint(tmp_path / "checkpoint_1_50.pt", 50)
    cut(chosen)
    with pytest.raises(InputError, match=r"checkpoint_1_100.pt: is not"):
        fairseq.load_checkpoint_to_cpu(str(chosen))


@pytest.mark.parametrize("write", ["save", "copy"])
def test_a_full_disk_leaves_the_old_file_and_no_other(
    fairseq: Any, tmp_path: Path, small_disk: None, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, source = tmp_path / "checkpoint_last.pt", tmp_path / "source.pt"
    target.write_bytes(b"old")
    source.write_bytes(b"new" * 100_000)
    actions: dict[str, Callable[[], object]] = {
        "save": lambda: fairseq.torch_persistent_save({"model": torch.zeros(10_000)}, str(target)),
        "copy": lambda: fairseq.PathManager.copy(str(source), str(target), overwrite=True),
    }
    with pytest.raises(InputError, match=r"checkpoint_last.pt: cannot be written: "):
        actions[write]()
    monkeypatch.undo()
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_last.pt", "source.pt"]


def test_a_copy_is_whole(fairseq: Any, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"new")
    (tmp_path / "b.pt").write_bytes(b"old")
    assert fairseq.PathManager.copy(str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), overwrite=True)
    assert (tmp_path / "b.pt").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 2
