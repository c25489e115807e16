"""The network, written once: torch only, no files, no fairseq."""

from .acoustic_model import AcousticModel, AcousticOutput, FeatureMasks
from .architecture import ARCHITECTURES, Architecture, named_architecture, parse_conv_layers
from .encoder import Regularization

__all__ = [
    "ARCHITECTURES",
    "AcousticModel",
    "AcousticOutput",
    "Architecture",
    "FeatureMasks",
    "Regularization",
    "named_architecture",
    "parse_conv_layers",
]
