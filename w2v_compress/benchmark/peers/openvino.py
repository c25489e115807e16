"""OpenVINO, `compile_model` for the CPU: our exported network in fp32, or in bf16, its default where supported."""

from collections.abc import Sequence

from . import Logits, Run, Setting, Waveform, pad

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


def convert(setting: Setting) -> None:
    """Write the file of `w2v-compress export --format openvino` at the compression point."""
    from ...interop.openvino import export_openvino

    path = setting.folder / "openvino.xml"
    if not path.exists():
        export_openvino(setting.model, path, point=setting.point)


def load(setting: Setting) -> Run:
    """Compile the network with the hint `LATENCY`, for one request at a time."""
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
        audio, lengths = pad(waveforms)
        outputs = model({"audio": audio, "lengths": lengths})
        return [row[:count].copy() for row, count in zip(outputs["logits"], outputs["frames"], strict=True)]

    return run
