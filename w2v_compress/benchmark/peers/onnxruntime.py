"""ONNX Runtime, `InferenceSession.run` with the CPU provider: our exported network in fp32, or with int8 MatMul."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import Logits, Run, Setting, Waveform, pad, trim


def convert(setting: Setting) -> None:
    """Write the file of `w2v-compress export --format onnx` at the compression point."""
    from ...interop.onnx import export_onnx

    export_onnx(setting.model, _file(setting), point=setting.point, int8=setting.precision == "int8")


def load(setting: Setting) -> Run:
    """Run the exported file."""
    session = make_session(_file(setting), setting)

    def run(waveforms: Sequence[Waveform]) -> list[Logits]:
        audio, lengths = pad(waveforms)
        logits, frames = session.run(None, {"audio": audio, "lengths": lengths})
        return trim(logits, frames)

    return run


def make_session(path: Path, setting: Setting) -> Any:
    """Create a session for an ONNX file. Its threads spin during a run, which is the default, but not between runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _file(setting: Setting) -> Path:
    """Return the path of the exported network."""
    return setting.folder / f"{setting.precision}.onnx"
