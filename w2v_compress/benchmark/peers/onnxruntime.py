"""ONNX Runtime on its CPU provider, in fp32 or with int8 MatMul."""

from collections.abc import Sequence
from pathlib import Path

from . import Logits, Run, Setting, Waveform, padded


def prepare(setting: Setting) -> None:
    """The file that `w2v-compress export --format onnx` writes, at the point."""
    from ...interop.onnx import export_onnx

    export_onnx(setting.model, _file(setting), point=setting.point, int8=setting.precision == "int8")


def load(setting: Setting) -> Run:
    """Threads may spin while a run lasts, as they do by default, but not after it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(_file(setting), options, providers=["CPUExecutionProvider"])

    def run(waveforms: Sequence[Waveform]) -> list[Logits]:
        audio, lengths = padded(waveforms)
        logits, frames = session.run(None, {"audio": audio, "lengths": lengths})
        return [row[:count] for row, count in zip(logits, frames, strict=True)]

    return run


def _file(setting: Setting) -> Path:
    return setting.folder / f"{setting.precision}.onnx"
