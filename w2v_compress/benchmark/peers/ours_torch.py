"""Our runtime with the torch engine, as `ours` otherwise; its int8 is not calibrated."""

from . import Run, Setting
from .ours import load_engine

INT8_FILE = "ours-torch-int8.safetensors"


def convert(setting: Setting) -> None:
    """Write the int8 model file with scheme `full`; the other precisions load the floating-point file."""
    from ...model_file.storage import quantize_file

    path = setting.folder / INT8_FILE
    if setting.precision == "int8" and not path.exists():
        quantize_file(setting.model, path)


def load(setting: Setting) -> Run:
    """Load the recognizer; the returned function gives its log-probabilities."""
    return load_engine(setting, "torch", setting.folder / INT8_FILE)
