"""CTranslate2, `models.Wav2Vec2` on the CPU: the model of transformers in fp32, or in int8 without calibration."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from . import Logits, Run, Setting, Waveform, transformers, trim

COMPUTE_TYPES = {"fp32": "float32", "int8": "int8"}
STRIDES = (5, 2, 2, 2, 2, 2, 2)
POSITIONS = (128, 16)
"""Kernel and groups of the positional convolution. CTranslate2 has no other ones, and no other strides."""


def convert(setting: Setting) -> None:
    """Convert the model of transformers with `TransformersConverter`.

    Raises `InputError` for a network that CTranslate2 does not implement.
    """
    from ...errors import InputError
    from ...model_file.tensor_file import read_header

    architecture = read_header(setting.model).architecture
    if architecture.extractor_mode != "layer_norm" or not architecture.layer_norm_first:
        raise InputError("CTranslate2 supports neither a group norm nor layer norms after the residual sums")
    if tuple(stride for _, _, stride in architecture.conv_layers) != STRIDES:
        raise InputError(f"CTranslate2 needs convolutions with the strides {STRIDES}")
    if (architecture.conv_pos, architecture.conv_pos_groups) != POSITIONS:
        raise InputError("CTranslate2 needs a positional convolution with kernel {} and {} groups".format(*POSITIONS))
    transformers.convert(setting)
    with transformers.hiding_unused_packages():
        from ctranslate2.converters import TransformersConverter

        converter = TransformersConverter(str(setting.folder / transformers.FOLDER))
        converter.convert(str(_folder(setting)), quantization=COMPUTE_TYPES[setting.precision], force=True)


def load(setting: Setting) -> Run:
    """Load the converted model. It has no attention mask: in a batch, padding is computed as audio."""
    import ctranslate2

    inputs = transformers.Inputs.read(setting.folder / transformers.FOLDER)
    model = ctranslate2.models.Wav2Vec2(
        str(_folder(setting)), compute_type=COMPUTE_TYPES[setting.precision], intra_threads=setting.threads
    )

    def run(waveforms: Sequence[Waveform]) -> list[Logits]:
        batch = inputs.batch(waveforms)
        features = ctranslate2.StorageView.from_array(batch.audio[:, None])  # (batch, 1, samples)
        return trim(np.array(model.encode(features, to_cpu=True)), batch.frames)

    return run


def _folder(setting: Setting) -> Path:
    """Return the folder of the converted model."""
    return setting.folder / f"ctranslate2-{setting.precision}"
