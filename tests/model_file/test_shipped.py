"""Models found by name: in Python and on the command line, before and after the models of examples/models."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import w2v_compress
from w2v_compress import InputError
from w2v_compress.model_file import shipped
from w2v_compress.model_file.shipped import find_model


@pytest.fixture
def folder(tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one shipped model, and another working directory."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    shutil.copy(tiny_path, folder / "tiny-letters.safetensors")
    (folder / "tiny-letters.md").write_text("card")
    monkeypatch.setattr(shipped, "shipped_folder", lambda: folder)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_a_name_finds_the_shipped_model(folder: Path, wav: Callable[..., Path]) -> None:
    audio = wav("speech.wav", 1.0)
    by_path = w2v_compress.load(str(folder / "tiny-letters.safetensors"))
    assert w2v_compress.load("tiny-letters").transcribe(audio) == by_path.transcribe(audio)


def test_a_file_comes_before_a_shipped_model(folder: Path) -> None:
    assert find_model("tiny-letters") == folder / "tiny-letters.safetensors"
    Path("tiny-letters").write_bytes(b"not a model")
    assert find_model("tiny-letters") == Path("tiny-letters")
    with pytest.raises(InputError, match="tiny-letters"):
        w2v_compress.load("tiny-letters")


def test_an_unknown_name_is_a_missing_file(folder: Path) -> None:
    with pytest.raises(InputError, match="tiny-words"):
        w2v_compress.load("tiny-words")


def test_the_command_line_lists_and_takes_names(
    folder: Path, run: Callable[..., tuple[int, str, str]], wav: Callable[..., Path], tmp_path: Path
) -> None:
    status, out, _ = run("models", "--json", tmp_path / "models.json")
    assert status == 0
    assert "tiny-letters" in out
    assert str(folder) in "".join(out.split())
    described = json.loads((tmp_path / "models.json").read_text())
    assert described["tiny-letters"]["bytes"] == (folder / "tiny-letters.safetensors").stat().st_size
    audio = wav("speech.wav", 1.0)
    by_path = run("transcribe", folder / "tiny-letters.safetensors", audio)
    assert by_path[0] == 0
    assert run("transcribe", "tiny-letters", audio)[:2] == by_path[:2]
