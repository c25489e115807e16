"""Runtimes whose modules a test writes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from w2v_compress.benchmark.peers import Runtime, Setting

QUIET = """
def convert(setting):
    pass


def load(setting):
    return lambda waveforms: [np.outer(waveform, [1, -1]) for waveform in waveforms]
"""
"""Module whose logits are the samples and their negatives, one frame per sample."""


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(model=tmp_path / "model.safetensors", folder=tmp_path, precision="fp32", threads=1)


@pytest.fixture
def audio(tmp_path: Path) -> list[Path]:
    """Files of two waveforms."""
    paths = [tmp_path / "long.npy", tmp_path / "short.npy"]
    for path, samples in zip(paths, ([0.5, -0.25, 1], [2]), strict=True):
        np.save(path, np.array(samples, np.float32))
    return paths


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """write_module(name, source) makes a module with this source, after `import numpy as np`, importable everywhere."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(folder)

    def write(name: str, source: str) -> str:
        (folder / f"{name}.py").write_text(f"import numpy as np\n{source}")
        return name

    return write


@pytest.fixture
def make_runtime(write_module: Callable[[str, str], str]) -> Callable[..., Runtime]:
    """make_runtime(name, source) returns a runtime whose module has this source, after `import numpy as np`."""

    def make(name: str, source: str = QUIET) -> Runtime:
        module = write_module(f"peer_{name}", source)
        return Runtime(name=name, module=module, precision="fp32")

    return make
