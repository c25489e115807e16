"""Faults of manifests, label files and dictionaries are named by file and line before training starts."""

from pathlib import Path

import pytest

from w2v_compress.data.manifest_check import check_manifest
from w2v_compress.data.units import read_symbols
from w2v_compress.errors import InputError

MANIFEST = "/audio\na.wav\t16000\nb/c.wav\t8000\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.tsv").write_text(MANIFEST)
    (tmp_path / "train.ltr").write_text("A B |\nC |\n")
    (tmp_path / "train.wrd").write_text("AB\nC\n")
    return tmp_path


def check(folder: Path) -> None:
    check_manifest(folder, "train", "ltr", "ABC|")


def test_a_whole_manifest(folder: Path) -> None:
    check(folder)
    (folder / "train.wrd").unlink()
    check(folder)
    check_manifest(folder, "train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.tsv", "", "line 1 is ''; it must be the folder of the audio"),
        ("train.tsv", "a.wav\t16000\n", "line 1 is 'a.wav\\t16000'; it must be the folder of the audio"),
        ("train.tsv", "/audio\n", "holds no utterances"),
        ("train.tsv", "/audio\na.wav 16000\n", "line 2 is 'a.wav 16000'; it must be a path, a tab and the samples"),
        ("train.tsv", "/audio\na.wav\t1\n\t5\n", "line 3 is '\\t5'; it must be"),
        ("train.tsv", "/audio\na.wav\t0\n", "line 2 is 'a.wav\\t0'; it must be"),
        ("train.tsv", "/audio\na.wav\t-5\n", "line 2 is 'a.wav\\t-5'; it must be"),
        ("train.tsv", "/audio\na.wav\t1e3\n", "line 2 is 'a.wav\\t1e3'; it must be"),
        ("train.tsv", "/audio\na.wav\t5\t7\n", "line 2 is 'a.wav\\t5\\t7'; it must be"),
        ("train.tsv", "/audio\n../a.wav\t5\n", "line 2: '../a.wav' leaves the folder of line 1"),
        ("train.tsv", "/audio\nb/../../a.wav\t5\n", "line 2: 'b/../../a.wav' leaves the folder of line 1"),
        ("train.tsv", "/audio\n/etc/a.wav\t5\n", "line 2: '/etc/a.wav' leaves the folder of line 1"),
        ("train.tsv", "/audio\na.wav\t5\nb.wav\t5\na.wav\t5\n", "line 4: 'a.wav' is listed twice, first in line 2"),
        ("train.tsv", b"/audio\n\xff.wav\t5\n", "line 2 is not UTF-8 text"),
        ("train.ltr", "A B |\n", "has 1 lines, but train.tsv has 2 utterances"),
        ("train.ltr", "A B |\nC |\nA |\n", "has 3 lines, but train.tsv has 2 utterances"),
        ("train.ltr", "A B |\n\n", "line 2 is empty; each utterance needs at least one label"),
        ("train.ltr", "A B |\nc |\n", "line 2: the label 'c' is not in dict.ltr.txt"),
        ("train.ltr", "A B |\n<s> |\n", "line 2: the label '<s>' is not in dict.ltr.txt"),
        ("train.ltr", b"A |\n\xe9 |\n", "line 2 is not UTF-8 text"),
        ("train.wrd", "AB\n", "has 1 lines, but train.tsv has 2 utterances"),
    ],
)
def test_faults(folder: Path, name: str, content: str | bytes, message: str) -> None:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        check(folder)
    assert str(caught.value).startswith(f"{folder / name}: {message}")


@pytest.mark.parametrize("name", ["train.tsv", "train.ltr"])
def test_missing_and_special_files(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file; `w2v-compress prepare` makes one"):
        check(folder)
    (folder / name).mkdir()
    with pytest.raises(InputError, match=f"{name}: is not a plain file"):
        check(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"A 1\nB\n", "line 2 is 'B'; it must be a symbol, a space and a count"),
        (b"A 1\nB 1\nA 1\n", "line 3: the symbol 'A' is in line 1 too"),
        (b"\xff 1\n", "is not UTF-8 text"),
    ],
)
def test_faults_of_dictionaries(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "dict.ltr.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_symbols(tmp_path / "dict.ltr.txt")
