"""The wav2vec 2.0 CTC network in plain torch: compression points, training options and int8-ready modules.

The network is written once, under fairseq's parameter names. This package reads no files and imports no fairseq.
"""

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
