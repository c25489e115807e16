"""The runtimes that `benchmark` compares: ours and others, one module for each library.

A module's `convert(setting)` writes the files that the library needs from one of our model files, and `load(setting)`
returns the function that runs the network. Both import the library inside the function, so that start-up time and
memory are those of that runtime alone. This module imports no torch for the same reason.
"""

import importlib.util
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
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
    calibration: tuple[Path, ...] = ()
    """Files (.npy) of waveforms to calibrate int8 on, normalized if the runtime takes normalized audio."""

    def to_json(self) -> str:
        """Return the fields as a JSON object; paths become strings."""
        return json.dumps({field.name: getattr(self, field.name) for field in fields(self)}, default=str)

    @classmethod
    def from_json(cls, text: str) -> "Setting":
        """Return the setting that `to_json` wrote."""
        values = json.loads(text)
        paths = {name: Path(values[name]) for name in ("model", "folder")}
        return cls(**values | paths | {"calibration": tuple(map(Path, values["calibration"]))})


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
    files_per_point: bool = False
    """Whether the converted files are for one compression point."""
    calibrated: bool = False
    """Whether int8 is calibrated on `Setting.calibration`; otherwise activations are quantized by their own range."""
    normalizes: bool = False
    """Whether the runtime takes unnormalized audio, and normalizes it where the model requires it."""

    def missing_package(self) -> str | None:
        """Return a line that names a missing package and the command that installs it, or None."""
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                return f"needs {package}, which is not installed: {install_command(self.extra)}"
        return None


def _ours(precision: Precision, engine: str = "openvino") -> Runtime:
    """Return our runtime at a precision, with an engine."""
    is_default = engine == "openvino"
    return Runtime(
        name=f"ours-{precision}" if is_default else f"ours-{engine}-{precision}",
        module=f"{__name__}.ours" if is_default else f"{__name__}.ours_{engine}",
        precision=precision,
        packages=("openvino",) if is_default else (),
        extra="openvino",
        every_point=True,
        normalizes=True,
        calibrated=precision == "int8" and is_default,
    )


def _peer(
    name: str, module: str, precision: Precision, *packages: str, exported: bool = False, calibrated: bool = False
) -> Runtime:
    """Return a runtime of the extra `peers`; those that run our exports support every point and normalize the audio."""
    return Runtime(
        name=name,
        module=f"{__name__}.{module}",
        precision=precision,
        packages=packages,
        extra="peers",
        every_point=exported,
        files_per_point=exported,
        normalizes=exported,
        calibrated=calibrated,
    )


ONNX = ("onnx", "onnxscript", "onnxruntime")
OPENVINO = ("openvino", "transformers")
QDQ = ("onnx", "onnxruntime", "transformers")
CTRANSLATE2 = ("ctranslate2", "transformers")
OURS = (_ours("fp32"), _ours("bf16"), _ours("int8"), _ours("fp32", "torch"), _ours("int8", "torch"))
PEERS = {
    runtime.name: runtime
    for runtime in (
        _peer("transformers-fp32", "transformers", "fp32", "transformers"),
        _peer("transformers-bf16", "transformers", "bf16", "transformers"),
        _peer("torch-ao-int8", "torch_ao", "int8", "transformers"),
        _peer("torchao-int8", "torchao", "int8", "transformers", "torchao"),
        _peer("onnxruntime-fp32", "onnxruntime", "fp32", *ONNX, exported=True),
        _peer("onnxruntime-int8", "onnxruntime", "int8", *ONNX, exported=True),
        _peer("onnxruntime-qdq-int8", "onnxruntime_qdq", "int8", *QDQ, calibrated=True),
        _peer("openvino-fp32", "openvino", "fp32", *OPENVINO),
        _peer("openvino-bf16", "openvino", "bf16", *OPENVINO),
        _peer("openvino-int8", "openvino", "int8", *OPENVINO, "nncf", calibrated=True),
        _peer("openvino-tutorial-int8", "openvino_tutorial", "int8", *OPENVINO, "nncf", calibrated=True),
        _peer("ctranslate2-fp32", "ctranslate2", "fp32", *CTRANSLATE2),
        _peer("ctranslate2-int8", "ctranslate2", "int8", *CTRANSLATE2),
        _peer("fairseq-fp32", "fairseq", "fp32", "fairseq"),
    )
}
BASELINE = "transformers-fp32"
"""Name of the runtime that speed-ups are relative to."""
EXACT = _ours("fp32", "torch")
"""The runtime whose outputs for single utterances the errors are relative to; tests compare it with stock fairseq."""


def pad(waveforms: Sequence[Waveform]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Pad waveforms with zeros to a batch (batch, samples), and return it with their lengths (batch,)."""
    lengths = np.array([len(waveform) for waveform in waveforms], np.int64)
    batch = np.zeros((len(waveforms), lengths.max()), np.float32)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return batch, lengths


def valid_samples(lengths: npt.NDArray[np.int64], samples: int) -> npt.NDArray[np.int64]:
    """Return a mask (batch, samples) with 1 for the samples of each waveform and 0 for its padding.

    `lengths` (batch,) are the lengths of the waveforms.
    """
    return (np.arange(samples) < lengths[:, None]).astype(np.int64)


def trim(logits: Iterable[npt.NDArray[np.floating]], frames: Iterable[int]) -> list[Logits]:
    """Return the first `frames` of each utterance's logits (frames, units), without those of its padding."""
    return [np.ascontiguousarray(row[:count], np.float32) for row, count in zip(logits, frames, strict=True)]
