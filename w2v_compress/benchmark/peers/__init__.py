"""The runtimes that `benchmark` compares: ours and others, one module for each library.

A module's `convert(setting)` writes the files that the library needs from one of our model files, and `load(setting)`
returns the function that runs the network. Both import the library inside the function, so that start-up time and
memory are those of that runtime alone. This module imports no torch for the same reason.
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
"""Samples (samples,) at 16 kHz."""
Logits = npt.NDArray[np.float32]
"""Logits or log-probabilities (frames, units)."""
Run = Callable[[Sequence[Waveform]], list[Logits]]
"""Runs waveforms of any lengths as one batch; returns the logits of each without the frames of its padding."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The network, precision, compression point and threads that a runtime runs."""

    model: Path
    """Our floating-point model file."""
    folder: Path
    """Folder for the converted files. Runtimes with the same format share a file in it."""
    precision: Precision
    point: str = "1,1,1"
    threads: int = 1


class PeerModule(Protocol):
    """Interface of the modules of this package."""

    def convert(self, setting: Setting) -> None:
        """Write the files that `load` reads. Raises `InputError` when the runtime does not support the network."""

    def load(self, setting: Setting) -> Run:
        """Return the function that runs the network."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A library at one precision: one line of the tables."""

    name: str
    module: str
    """Full name of a module with the interface of `PeerModule`."""
    precision: Precision
    packages: tuple[str, ...] = ()
    """Packages that the module imports, beyond the requirements of this package."""
    extra: str = ""
    """Pip extra that installs `packages`."""
    every_point: bool = False
    """Whether the runtime supports compression points other than (1, 1, 1)."""
    normalizes: bool = False
    """Whether the runtime takes unnormalized audio, and normalizes it where the model requires it."""

    def missing_package(self) -> str | None:
        """Return a line that names a missing package and the command that installs it, or None."""
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                return f"needs {package}, which is not installed: {install_command(self.extra)}"
        return None


def _peer(name: str, module: str, precision: Precision, *packages: str, exported: bool = False) -> Runtime:
    """Return a runtime of the extra `peers`; those that run our exports support every point and normalize the audio."""
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
BASELINE = "transformers-fp32"
"""Name of the runtime that speed-ups are relative to."""
EXACT = OURS[0]
"""The runtime whose outputs for single utterances the errors are relative to; tests compare it with stock fairseq."""


def pad(waveforms: Sequence[Waveform]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Pad waveforms with zeros to a batch (batch, samples), and return it with their lengths (batch,)."""
    lengths = np.array([len(waveform) for waveform in waveforms], np.int64)
    batch = np.zeros((len(waveforms), lengths.max()), np.float32)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return batch, lengths
