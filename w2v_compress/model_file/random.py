"""Models with random weights, for measuring size and speed and for trying recipes."""

import torch

from ..data.units import Units
from ..nn.acoustic_model import AcousticModel
from ..nn.architecture import Architecture
from ..nn.compression import UNCOMPRESSED, CompressionPoint, CompressionSpace
from .header import Header
from .storage import ModelFile


def random_model(architecture: Architecture, seed: int = 0) -> ModelFile:
    """Return a model of `architecture` with random weights that depend on `seed` alone, for LibriSpeech's letters.

    Its one compression point is the smallest squeeze factor with learned upsampling, if the architecture has any, else
    (1, 1, 1). Raises `InputError` if the architecture's `num_units` is not the number of letters, 32.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AcousticModel(architecture)
    learned = architecture.learned_upsampling
    point = CompressionPoint(learned[0]) if learned else UNCOMPRESSED
    header = Header(
        architecture=architecture,
        units=Units.letters(),
        normalize=architecture.extractor_mode == "layer_norm",
        space=CompressionSpace(points=(point,)),
        point=point,
    )
    return ModelFile(header, network.state_dict())
