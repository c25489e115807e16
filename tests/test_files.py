"""Atomic writes of files, groups of files and folders."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from w2v_compress.errors import InputError
from w2v_compress.files import creating_folder, replacing, replacing_together, write_json
from w2v_compress.model_file.storage import ModelFile, write_model


def test_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".safetensors"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["model.safetensors"]


def fail_after_writing(path: Path) -> None:
    path.write_text("half")
    raise RuntimeError("halfway")


def test_a_failure_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="halfway"), replacing(path) as temporary:
        fail_after_writing(temporary)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_a_full_disk_is_an_input_error_that_names_the_path(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with pytest.raises(InputError, match=r"out\.txt: cannot be written: No space left on device"), replacing(path):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_an_error_of_a_nested_writer_names_the_path(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match=f"^{path}: cannot be written: No space"):  # noqa: SIM117
        with replacing(path) as temporary, replacing(temporary):
            raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_missing_folders_are_created_and_removed_after_a_failure(tmp_path: Path) -> None:
    for write in (replacing, replacing_together):
        path = tmp_path / write.__name__ / "new" / "out.txt"
        with pytest.raises(RuntimeError, match="halfway"), write(path) as temporary:
            fail_after_writing(temporary)
        assert not (tmp_path / write.__name__).exists()
        with write(path) as temporary:
            temporary.write_text("new")
        assert path.read_text() == "new"
    with creating_folder(tmp_path / "made" / "folder") as temporary:
        (temporary / "file").touch()
    assert (tmp_path / "made" / "folder" / "file").is_file()


def test_rejects_an_impossible_folder_a_folder_and_a_device(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    for path, reason in (
        (tmp_path / "plain" / "out.txt", "the folder .*plain cannot be created: "),
        (tmp_path, "not a plain file"),
        (Path(os.devnull), "not a plain file"),
    ):
        with pytest.raises(InputError, match=reason), replacing(path):
            pytest.fail("entered")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_writes_through_a_link_and_with_the_usual_permissions(tmp_path: Path) -> None:
    target, link, plain = tmp_path / "target", tmp_path / "link", tmp_path / "plain"
    target.write_text("old")
    link.symlink_to(target)
    with replacing(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    plain.write_text("")
    assert target.stat().st_mode == plain.stat().st_mode


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    old = os.umask(0o022)
    yield os.umask
    os.umask(old)


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077, 0o000])
def test_permissions_are_those_of_open(
    tmp_path: Path, umask: Callable[[int], int], mask: int, tiny_model: Callable[..., ModelFile]
) -> None:
    """Also if a library writes files that only their owner can read, as safetensors does."""
    umask(mask)

    def write_privately(path: Path) -> None:
        save_file({"weight": torch.zeros(1)}, path)
        path.chmod(0o600)

    (tmp_path / "plain").write_text("")
    expected = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    (tmp_path / "shared").write_text("")
    (tmp_path / "shared").chmod(0o664)
    for name in ("new", "shared"):
        with replacing(tmp_path / name) as temporary:
            write_privately(temporary)
    with replacing_together(tmp_path / "graph.xml") as temporary:
        write_privately(temporary)
        write_privately(temporary.with_suffix(".bin"))
    with creating_folder(tmp_path / "folder") as temporary:
        write_privately(temporary / "file")
    write_model(tmp_path / "model", tiny_model())
    found = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in sorted(os.listdir(tmp_path))}
    assert found.pop("shared") == 0o664
    assert found.pop("folder") == 0o777 & ~mask
    assert stat.S_IMODE((tmp_path / "folder" / "file").stat().st_mode) == expected
    assert found == dict.fromkeys(["graph.bin", "graph.xml", "model", "new", "plain"], expected)


def test_json_round_trip_and_rejection_of_not_a_number(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"text": "é", "values": [1, 2.5]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"text": "é", "values": [1, 2.5]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text(encoding="utf-8"))["text"] == "é"


def test_several_files_are_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    path.write_text("old")
    (tmp_path / "model.bin").write_text("old")
    with pytest.raises(RuntimeError, match="halfway"), replacing_together(path) as temporary:
        fail_after_writing(temporary.with_suffix(".bin"))
    assert [(tmp_path / name).read_text() for name in sorted(os.listdir(tmp_path))] == ["old", "old"]
    with replacing_together(path) as temporary:
        assert temporary.name == "model.xml"
        temporary.with_suffix(".bin").write_text("new")
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["model.bin", "model.xml"]
    assert [(tmp_path / name).read_text() for name in os.listdir(tmp_path)] == ["new", "new"]


def test_a_folder_is_created_atomically(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with pytest.raises(RuntimeError, match="halfway"), creating_folder(path) as temporary:
        fail_after_writing(temporary / "file")
    assert os.listdir(tmp_path) == []
    path.mkdir()
    with creating_folder(path) as temporary:
        (temporary / "file").write_text("new")
        assert os.listdir(path) == []
    assert os.listdir(tmp_path) == ["folder"]
    assert (path / "file").read_text() == "new"
    with (
        pytest.raises(InputError, match="cannot be written: it exists and is not an empty folder"),
        creating_folder(path),
    ):
        pytest.fail("entered")


def test_a_folder_replaces_an_empty_one_on_windows_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(source: Path, target: Path) -> None:
        if target.is_dir():
            raise PermissionError(13, "Access is denied", str(target))
        source.rename(target)

    monkeypatch.setattr("os.replace", replace)
    (tmp_path / "empty").mkdir()
    with creating_folder(tmp_path / "empty") as temporary:
        (temporary / "file").write_text("new")
    assert (tmp_path / "empty" / "file").read_text() == "new"


@pytest.mark.parametrize("write", [replacing_together, creating_folder])
def test_errors_of_folders_and_several_files_name_the_path(
    write: Callable[[Path], AbstractContextManager[Path]], tmp_path: Path
) -> None:
    (tmp_path / "plain").touch()
    with pytest.raises(InputError, match="plain cannot be created"), write(tmp_path / "plain" / "out"):
        pytest.fail("entered")
    with pytest.raises(InputError, match="out: cannot be written: No space left on device"), write(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="a library"), write(tmp_path / "out"):
        raise OSError("a library cannot be loaded")
    assert os.listdir(tmp_path) == ["plain"]
