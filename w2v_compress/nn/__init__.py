"""The network, written once: torch only, no files, no fairseq."""

from .acoustic_model import AcousticModel, AcousticOutput, FeatureMasks
from .architecture import ARCHITECTURES, Architecture, named_architecture, parse_conv_layers
from .compression import UNCOMPRESSED, CompressionPoint, CompressionSpace
from .options import TrainingOptions

__all__ = [
    "ARCHITECTURES",
    "UNCOMPRESSED",
    "AcousticModel",
    "AcousticOutput",
    "Architecture",
    "CompressionPoint",
    "CompressionSpace",
    "FeatureMasks",
    "TrainingOptions",
    "named_architecture",
    "parse_conv_layers",
]
