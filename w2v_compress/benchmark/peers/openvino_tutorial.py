"""OpenVINO in int8 as its tutorial for wav2vec 2.0: the first four convolutions stay in floating point.

Quantizing them, as `openvino` does, is faster and makes many more errors with the trained base model of the tutorial.
"""

from . import Run, Setting, openvino

FILE = "openvino-tutorial-int8.xml"
FIRST_CONVOLUTIONS = r".*feature_extractor\.conv_layers\.[0-3]\.conv/.*"


def convert(setting: Setting) -> None:
    """Convert the model of transformers, and quantize it without the first convolutions."""
    openvino.quantize(setting, FILE, ignored=[FIRST_CONVOLUTIONS])


def load(setting: Setting) -> Run:
    """Run the quantized network."""
    return openvino.make_run(setting.folder / FILE, setting)
