"""Our runtime with the OpenVINO engine, `Recognizer.recognize`: from samples to text, with decoding."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from ...runtime.engines.names import EngineName
from . import Logits, Run, Setting, Waveform

INT8_FILE = "ours-int8.safetensors"


def convert(setting: Setting) -> None:
    """Write the int8 model file with scheme `full`, calibrated; the other precisions load the floating-point file."""
    import numpy as np

    from ...evaluation.calibrate import calibrate
    from ...model_file.storage import quantize_file

    path = setting.folder / INT8_FILE
    if setting.precision == "int8" and not path.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about few utterances, which the report counts
            calibration = calibrate(setting.model, [np.load(path) for path in setting.calibration])
        quantize_file(setting.model, path, calibration=calibration)


def load(setting: Setting) -> Run:
    """Load the recognizer; the returned function gives its log-probabilities."""
    return load_engine(setting, "openvino", setting.folder / INT8_FILE)


def load_engine(setting: Setting, engine: EngineName, int8_file: Path) -> Run:
    """Load the floating-point model, or `int8_file` for int8, into an engine."""
    from ...data.audio import SAMPLE_RATE
    from ...errors import InputError
    from ...runtime.recognizer import Recognizer

    path = int8_file if setting.precision == "int8" else setting.model
    recognizer = Recognizer.load(path, engine=engine, precision=setting.precision, threads=setting.threads)

    def run(waveforms: Sequence[Waveform]) -> list[Logits]:
        results = []
        for result in recognizer.recognize(waveforms, SAMPLE_RATE, batch_size=len(waveforms), point=setting.point):
            if isinstance(result, InputError):
                raise result
            results.append(result.log_probs)
        return results

    return run
