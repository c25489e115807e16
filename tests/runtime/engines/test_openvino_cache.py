"""Compiled graphs on disk: found again, and written anew where they are damaged, stale or cannot be written."""

import dataclasses
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from w2v_compress.model_file.storage import ModelFile, quantize_file, write_model
from w2v_compress.nn.compression import UNCOMPRESSED, CompressionPoint
from w2v_compress.runtime.engines.openvino import cache as module
from w2v_compress.runtime.engines.openvino.engine import OpenVinoEngine
from w2v_compress.runtime.engines.openvino.graph import GraphBuilder

AUDIO = np.random.default_rng(0).normal(size=20_000).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache, in which graphs of the tiny model are kept however large they are."""
    monkeypatch.setenv(module.FOLDER_VARIABLE, str(tmp_path / "graphs"))
    monkeypatch.setattr(module, "MAX_ENTRY_SHARE", 100)
    return tmp_path / "graphs"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The graphs that were built."""
    graphs: list[str] = []
    for name in ("extractor", "encoder"):
        build = getattr(GraphBuilder, name)

        def count(
            self: GraphBuilder, argument: object, name: str = name, build: Callable[..., object] = build
        ) -> object:
            graphs.append(f"{name} {argument}")
            return build(self, argument)

        monkeypatch.setattr(GraphBuilder, name, count)
    return graphs


def run(path: Path, point: CompressionPoint = UNCOMPRESSED, precision: str = "fp32", **options: bool) -> np.ndarray:
    (log_probs,) = OpenVinoEngine(path, precision, threads=1, **options).log_probs([AUDIO], point)
    return log_probs


def test_graphs_are_built_once(folder: Path, built: list[str], tiny_path: Path) -> None:
    first = run(tiny_path)
    assert built == ["encoder 1,1,1", "extractor 64"]
    np.testing.assert_array_equal(run(tiny_path), first)
    assert len(built) == 2
    run(tiny_path, CompressionPoint(2))
    assert built[2:] == ["encoder 2,1,1"]
    assert len(list(folder.iterdir())) == 3
    run(tiny_path, precision="bf16")
    assert len(built) == 5


def test_int8_graphs_are_found_too(folder: Path, built: list[str], tiny_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8.safetensors"
    quantize_file(tiny_path, path)
    np.testing.assert_array_equal(run(path, precision="int8"), run(path, precision="int8"))
    assert len(built) == 2


def test_a_moved_model_finds_its_graphs_and_a_changed_one_does_not(
    folder: Path, built: list[str], tiny_model: Callable[..., ModelFile], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    write_model(path, tiny_model())
    first = run(path)
    moved = path.rename(tmp_path / "moved.safetensors")
    np.testing.assert_array_equal(run(moved), first)
    assert len(built) == 2
    model = tiny_model()
    times = moved.stat()
    write_model(moved, dataclasses.replace(model, state={name: 1.1 * each for name, each in model.state.items()}))
    os.utime(moved, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert np.abs(run(moved) - first).max() > 0.01
    assert len(built) == 4


@pytest.mark.parametrize("then", ["deleted", "replaced"])
def test_a_loaded_model_does_not_depend_on_its_file(
    then: str, folder: Path, tiny_model: Callable[..., ModelFile], tmp_path: Path
) -> None:
    path, point = tmp_path / "model.safetensors", CompressionPoint(2)
    write_model(path, tiny_model())
    expected = run(path, point)  # now also in the cache
    engine = OpenVinoEngine(path, "fp32", threads=1)
    path.unlink()
    if then == "replaced":
        model = tiny_model()
        write_model(path, dataclasses.replace(model, state={name: 1.1 * each for name, each in model.state.items()}))
    np.testing.assert_array_equal(engine.log_probs([AUDIO], point)[0], expected)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "rejected"])
def test_damaged_entries_are_built_anew(damage: str, folder: Path, built: list[str], tiny_path: Path) -> None:
    first = run(tiny_path)
    for path in folder.iterdir():
        content = bytearray(path.read_bytes())
        if damage == "flipped":
            content[-5] ^= 1
        elif damage == "rejected":  # with the right checksum, as a faulty version would write it
            content = bytearray(module.hashlib.sha256(b"not a graph").digest() + b"not a graph")
        path.write_bytes(content[: 100 if damage == "truncated" else 0 if damage == "empty" else None])
    np.testing.assert_array_equal(run(tiny_path), first)
    assert len(built) == 4
    run(tiny_path)
    assert len(built) == 4


def test_no_cache_writes_nothing(folder: Path, built: list[str], tiny_path: Path) -> None:
    for _ in range(2):
        run(tiny_path, cache=False)
    assert len(built) == 4
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_no_error(folder: Path, tiny_path: Path) -> None:
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file in its place")
    assert np.isfinite(run(tiny_path)).all()


def test_a_full_disk_is_no_error(folder: Path, tiny_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        assert len(run(tiny_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(folder.iterdir())


def test_the_oldest_entries_are_deleted(folder: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tiny_path)
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    monkeypatch.setattr(module, "MAX_BYTES", 1)
    run(tiny_path, CompressionPoint(2))
    (kept,) = folder.iterdir()
    assert kept.stat().st_mtime > 1


def test_large_graphs_are_not_kept(folder: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRY_SHARE", 1e-6)
    run(tiny_path)
    assert not folder.exists()


def test_a_cached_start_imports_no_torch(tiny_path: Path, wav: Callable[..., Path]) -> None:
    program = f"""
import sys, w2v_compress
print(w2v_compress.load({str(tiny_path)!r}, precision="fp32").transcribe({str(wav("a.wav", 1.0))!r}))
print("torch" in sys.modules)
"""
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.endswith("\nFalse\n")
