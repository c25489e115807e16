import json
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from w2v_compress.errors import InputError
from w2v_compress.files import creating_folder, replacing, replacing_together, write_json


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


def test_refuses_a_missing_folder_a_folder_and_a_device(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "absent" / "out.txt", "does not exist"),
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


def test_json_round_trip_and_refusal_of_not_a_number(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"text": "é", "values": [1, 2.5]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"text": "é", "values": [1, 2.5]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text(encoding="utf-8"))["text"] == "é"


def test_several_files_are_replaced_together_or_not_at_all(tmp_path: Path) -> None:
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


def test_a_folder_is_created_whole_or_not_at_all(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("write", [replacing_together, creating_folder])
def test_folders_and_several_files_name_what_is_wrong(
    write: Callable[[Path], AbstractContextManager[Path]], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="absent does not exist"), write(tmp_path / "absent" / "out"):
        pytest.fail("entered")
    with pytest.raises(InputError, match="out: cannot be written: No space left on device"), write(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="a library"), write(tmp_path / "out"):
        raise OSError("a library cannot be loaded")
    assert os.listdir(tmp_path) == []
