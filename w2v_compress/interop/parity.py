"""Comparison of an exported network with ours: on audio of three lengths, and on a padded batch of all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..data.normalization import normalize
from ..errors import InputError
from ..model_file.storage import ModelFile
from ..nn.acoustic_model import AcousticModel
from ..nn.architecture import Architecture
from ..nn.compression import CompressionPoint

TOLERANCE = 1e-3
"""The largest absolute difference of logits allowed in fp32."""
FRAMES = (1, 50, 147)
"""Lengths of the audio in frames: the shortest possible, one second, and three. Pooling factors do not divide them."""

ExportedNetwork = Callable[
    [npt.NDArray[np.float32], npt.NDArray[np.int64]], tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
]
"""Audio (batch, samples), valid samples (batch,) -> logits (batch, frames, units), valid frames (batch,)."""


class Batch(NamedTuple):
    """A batch of utterances, padded with zeros."""

    audio: Tensor
    """(batch, samples)"""
    lengths: Tensor
    """Valid samples, (batch,)."""

    @property
    def has_padding(self) -> bool:
        """Whether the utterances differ in length."""
        return len(set(self.lengths.tolist())) > 1


@dataclass(frozen=True)
class Difference:
    """Difference between the logits of two networks over all valid frames."""

    largest: float
    """Largest absolute difference; infinite if the shapes differ."""
    mismatch_rate: float
    """Fraction of the frames whose most probable unit differs."""

    def check(self, out: Path) -> None:
        """Raise `InputError` that says that `out` is not written if `largest` is above `TOLERANCE` or not a number."""
        if not self.largest <= TOLERANCE:
            raise InputError(
                f"{out}: not written: its logits differ from the network's by up to {self.largest:.2g}; "
                f"at most {TOLERANCE:g} is allowed"
            )


def parity_batches(architecture: Architecture) -> list[Batch]:
    """Return noise of each length in `FRAMES` alone, then all of it as one padded batch.

    The noise varies in loudness and has an offset.
    """
    generator = np.random.default_rng(0)
    hop = architecture.samples_per_frame
    utterances = []
    for frames in FRAMES:
        samples = architecture.receptive_field + (frames - 1) * hop + (frames > 1) * hop // 3
        loudness = 0.1 * np.abs(np.sin(np.arange(samples) / 2000 + 1))
        utterances.append(torch.from_numpy((generator.normal(size=samples) * loudness + 0.01).astype(np.float32)))
    return [pad([utterance]) for utterance in utterances] + [pad(utterances[::-1])]


def pad(utterances: Sequence[Tensor]) -> Batch:
    """Pad utterances, each (samples,), to one batch."""
    lengths = torch.tensor([len(utterance) for utterance in utterances])
    return Batch(torch.nn.utils.rnn.pad_sequence(list(utterances), batch_first=True), lengths)


def normalize_batch(batch: Batch) -> Batch:
    """Normalize each utterance to zero mean and unit variance, as our runtime does for models that expect it."""
    rows = zip(batch.audio, batch.lengths.tolist(), strict=True)
    return pad([torch.from_numpy(normalize(row[:length].numpy())) for row, length in rows])


def split_valid(logits: Tensor, frames: Tensor) -> list[Tensor]:
    """Split logits (batch, frames, units) into utterances (frames, units), given the valid frames (batch,)."""
    return [row[:count] for row, count in zip(logits, frames.tolist(), strict=True)]


@torch.inference_mode()
def reference_logits(network: AcousticModel, batch: Batch, point: CompressionPoint) -> list[Tensor]:
    """Return the logits of our network, (frames, units) for each utterance."""
    return split_valid(*network(batch.audio, batch.lengths if batch.has_padding else None, point))


def compare_logits(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> Difference:
    """Return the difference between two lists of logits, (frames, units) for each utterance."""
    if [logits.shape for logits in expected] != [logits.shape for logits in actual]:
        return Difference(float("inf"), 1.0)
    one, other = torch.cat(list(expected)), torch.cat(list(actual))
    mismatches = (one.argmax(-1) != other.argmax(-1)).double().mean()
    return Difference(float((one - other).abs().max()), float(mismatches))


def measure_difference(model: ModelFile, point: CompressionPoint, exported: ExportedNetwork) -> Difference:
    """Return the difference between the network of `model` and `exported`, which normalizes the audio itself."""
    network = model.build()
    expected: list[Tensor] = []
    actual: list[Tensor] = []
    for batch in parity_batches(model.header.architecture):
        expected += reference_logits(network, normalize_batch(batch) if model.header.normalize else batch, point)
        logits, frames = exported(batch.audio.numpy(), batch.lengths.numpy())
        actual += split_valid(torch.from_numpy(logits), torch.from_numpy(frames))
    return compare_logits(expected, actual)
