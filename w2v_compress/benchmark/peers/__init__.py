"""Runtimes of one network, ours and others, each in a process of its own, for `evaluation.benchmark` to compare.

A module a runtime. `prepare(setting)` writes what it needs from a model file of ours, `load(setting)` gives the
function that runs it. Both import what they need when they are called, so that start-up time and memory are the
runtime's own. Here is only what takes no torch.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ...extras import install_command
from ...runtime.precision import Precision

Waveform = npt.NDArray[np.float32]
"""(samples,) at 16 kHz"""
Logits = npt.NDArray[np.float32]
"""(frames, units), before or after a log-softmax"""
Run = Callable[[Sequence[Waveform]], list[Logits]]
"""A batch of waveforms of any lengths -> what the network gives for each, without the frames of padding."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a runtime is to run, and how."""

    model: Path
    """A floating-point model file of ours."""
    folder: Path
    """For what is made of it. Runtimes share it, and take what is there already."""
    precision: Precision
    point: str = "1,1,1"
    threads: int = 1


class PeerModule(Protocol):
    """What the modules here have."""

    def prepare(self, setting: Setting) -> None:
        """Write into the folder what `load` reads. Raises `InputError` where the runtime has no such network."""

    def load(self, setting: Setting) -> Run:
        """The network, ready to run."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One line of the comparison."""

    name: str
    module: str
    """The full name of a `PeerModule`."""
    precision: Precision
    packages: tuple[str, ...] = ()
    """What it imports, beyond what this package requires."""
    extra: str = ""
    """The pip extra that has them."""
    every_point: bool = False
    """Whether it runs at other compression points than (1, 1, 1)."""
    normalizes: bool = False
    """Whether it takes the audio as it is, and normalizes it itself where the model wants that."""

    def missing_package(self) -> str | None:
        """One line that says what is not installed and which extra has it; None when all is there."""
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                return f"needs {package}, which is not installed: {install_command(self.extra)}"
        return None


def _peer(name: str, module: str, precision: Precision, *packages: str, exported: bool = False) -> Runtime:
    return Runtime(
        name=name,
        module=f"{__name__}.{module}",
        precision=precision,
        packages=packages,
        extra="peers",
        every_point=exported,
        normalizes=exported,
    )


OURS = tuple(
    Runtime(name=f"ours-{precision}", module=f"{__name__}.ours", precision=precision, every_point=True, normalizes=True)
    for precision in ("fp32", "bf16", "int8")
)
PEERS = {
    runtime.name: runtime
    for runtime in (
        _peer("transformers-fp32", "transformers", "fp32", "transformers"),
        _peer("transformers-bf16", "transformers", "bf16", "transformers"),
        _peer("torch-ao-int8", "torch_ao", "int8", "transformers"),
        _peer("torchao-int8", "torchao", "int8", "transformers", "torchao"),
        _peer("onnxruntime-fp32", "onnxruntime", "fp32", "onnx", "onnxscript", "onnxruntime", exported=True),
        _peer("onnxruntime-int8", "onnxruntime", "int8", "onnx", "onnxscript", "onnxruntime", exported=True),
        _peer("openvino-fp32", "openvino", "fp32", "openvino", exported=True),
        _peer("openvino-bf16", "openvino", "bf16", "openvino", exported=True),
        _peer("fairseq-fp32", "fairseq", "fp32", "fairseq"),
    )
}
REFERENCE = "transformers-fp32"
"""The one that times are compared with."""


def padded(waveforms: Sequence[Waveform]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Waveforms -> (batch, samples), with zeros after the shorter ones, and their samples (batch,)"""
    lengths = np.array([len(waveform) for waveform in waveforms], np.int64)
    batch = np.zeros((len(waveforms), lengths.max()), np.float32)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return batch, lengths
