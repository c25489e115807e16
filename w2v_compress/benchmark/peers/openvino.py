"""OpenVINO, `compile_model` for the CPU: the model of transformers in fp32, bf16, or int8 calibrated with NNCF."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import Logits, Run, Setting, Waveform, transformers, trim

PRECISIONS = {"fp32": {"INFERENCE_PRECISION_HINT": "f32"}, "bf16": {"INFERENCE_PRECISION_HINT": "bf16"}, "int8": {}}
"""Options by precision. For int8, OpenVINO chooses the precision of what is not quantized."""
FLOAT_FILE = "openvino.xml"
INT8_FILE = "openvino-int8.xml"


def convert(setting: Setting) -> None:
    """Convert the model of transformers with `convert_model`, and for int8 quantize all of it with `nncf.quantize`."""
    if setting.precision == "int8":
        quantize(setting, INT8_FILE, ignored=[])
    else:
        _export(setting)


def load(setting: Setting) -> Run:
    """Run the converted network."""
    return make_run(setting.folder / (INT8_FILE if setting.precision == "int8" else FLOAT_FILE), setting)


def make_run(path: Path, setting: Setting) -> Run:
    """Compile the network in the file `path` with the hint `LATENCY`, for one request at a time."""
    import openvino

    inputs = transformers.Inputs.read(setting.folder / transformers.FOLDER)
    options = {"INFERENCE_NUM_THREADS": setting.threads, "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(path, "CPU", options | PRECISIONS[setting.precision])

    def run(waveforms: Sequence[Waveform]) -> list[Logits]:
        batch = inputs.batch(waveforms)
        return trim(model(batch.named())[0].copy(), batch.frames)

    return run


def quantize(setting: Setting, name: str, *, ignored: list[str]) -> None:
    """Write the network in int8 to the file `name`, calibrated on the waveforms of `setting`.

    `ignored` has patterns of the names of operations to leave in floating point.
    """
    import nncf
    import openvino

    model = openvino.Core().read_model(_export(setting))
    inputs = transformers.Inputs.read(setting.folder / transformers.FOLDER)

    def batch(path: Path) -> dict[str, Any]:
        return inputs.batch([np.load(path, allow_pickle=False)]).named()

    quantized = nncf.quantize(
        model,
        nncf.Dataset(setting.calibration, batch),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(setting.calibration),
        ignored_scope=nncf.IgnoredScope(patterns=ignored),
    )
    openvino.save_model(quantized, setting.folder / name, compress_to_fp16=False)


def _export(setting: Setting) -> Path:
    """Convert the model of transformers for any batch size and length, and return the path of the file.

    The network has an attention mask if the model takes one. All precisions share the file.
    """
    import openvino
    import torch

    path = setting.folder / FLOAT_FILE
    if not path.exists():
        transformers.convert(setting)
        inputs = transformers.Inputs.read(setting.folder / transformers.FOLDER)
        model = transformers.load_model(setting, torch.float32)
        converted = openvino.convert_model(model, example_input=transformers.example(inputs))
        openvino.save_model(converted, path, compress_to_fp16=False)
    return path
