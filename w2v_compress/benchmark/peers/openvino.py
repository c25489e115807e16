"""OpenVINO's CPU plugin, in fp32 or in bf16, which it chooses itself where the processor has units for it."""

from collections.abc import Sequence

from . import Logits, Run, Setting, Waveform, padded

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


def prepare(setting: Setting) -> None:
    """The file that `w2v-compress export --format openvino` writes, at the point."""
    from ...interop.openvino import export_openvino

    path = setting.folder / "openvino.xml"
    if not path.exists():
        export_openvino(setting.model, path, point=setting.point)


def load(setting: Setting) -> Run:
    """Compiled for the latency of one request."""
    import openvino

    model = openvino.Core().compile_model(
        setting.folder / "openvino.xml",
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": PRECISIONS[setting.precision],
            "INFERENCE_NUM_THREADS": setting.threads,
            "PERFORMANCE_HINT": "LATENCY",
        },
    )

    def run(waveforms: Sequence[Waveform]) -> list[Logits]:
        audio, lengths = padded(waveforms)
        outputs = model({"audio": audio, "lengths": lengths})
        return [row[:count].copy() for row, count in zip(outputs["logits"], outputs["frames"], strict=True)]

    return run
