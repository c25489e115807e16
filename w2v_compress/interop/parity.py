"""How far an exported network is from ours, on three lengths and a padded batch, and how far it may be."""

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
"""The largest difference of logits in fp32."""
FRAMES = (1, 50, 147)
"""Of the three lengths: the shortest audio there is, a second and three, in no whole number of any pooling."""

Run = Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64]], tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]
"""Recorded audio (batch, samples) and valid samples (batch,) -> logits (batch, frames, units), valid frames (batch,)"""


class Batch(NamedTuple):
    """Utterances side by side; what is not valid is zero."""

    audio: Tensor
    """(batch, samples)"""
    lengths: Tensor
    """(batch,)"""

    @property
    def mixed(self) -> bool:
        """Whether there is padding."""
        return len(set(self.lengths.tolist())) > 1


@dataclass(frozen=True)
class Difference:
    """Between the logits of two networks, over all valid frames of all audio."""

    largest: float
    """Absolute; infinite when shapes differ."""
    labels: float
    """The fraction of frames whose best unit differs."""

    def check(self, out: Path) -> None:
        """Raises `InputError`, which says that `out` is not written, when it is more than `TOLERANCE` or no number."""
        if not self.largest <= TOLERANCE:
            raise InputError(
                f"{out}: not written: its logits differ from the network's by up to {self.largest:.2g}; "
                f"at most {TOLERANCE:g} is allowed"
            )


def batches(architecture: Architecture) -> list[Batch]:
    """Noise that is loud and quiet by turns, around a middle that is not zero: of each length alone, then of all."""
    generator = np.random.default_rng(0)
    hop = architecture.samples_per_frame
    utterances = []
    for frames in FRAMES:
        samples = architecture.receptive_field + (frames - 1) * hop + (frames > 1) * hop // 3
        loudness = 0.1 * np.abs(np.sin(np.arange(samples) / 2000 + 1))
        utterances.append(torch.from_numpy((generator.normal(size=samples) * loudness + 0.01).astype(np.float32)))
    return [pad([utterance]) for utterance in utterances] + [pad(utterances[::-1])]


def pad(utterances: Sequence[Tensor]) -> Batch:
    """Utterances (samples,) of any lengths as a batch."""
    lengths = torch.tensor([len(utterance) for utterance in utterances])
    return Batch(torch.nn.utils.rnn.pad_sequence(list(utterances), batch_first=True), lengths)


def normalized(batch: Batch) -> Batch:
    """Each utterance at zero mean and unit variance, as our runtime gives it to networks that want it so."""
    rows = zip(batch.audio, batch.lengths.tolist(), strict=True)
    return pad([torch.from_numpy(normalize(row[:length].numpy())) for row, length in rows])


def valid_rows(logits: Tensor, frames: Tensor | None) -> list[Tensor]:
    """(batch, frames, units), valid frames (batch,) or None when all are -> (frames, units) of each utterance"""
    counts = [logits.shape[1]] * len(logits) if frames is None else frames.tolist()
    return [row[:count] for row, count in zip(logits, counts, strict=True)]


@torch.inference_mode()
def our_logits(network: AcousticModel, batch: Batch, point: CompressionPoint) -> list[Tensor]:
    """What our runtime computes: (frames, units) of each utterance."""
    return valid_rows(*network(batch.audio, batch.lengths if batch.mixed else None, point))


def difference(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> Difference:
    """Of logits (frames, units), utterance by utterance."""
    if [logits.shape for logits in expected] != [logits.shape for logits in actual]:
        return Difference(float("inf"), 1.0)
    one, other = torch.cat(list(expected)), torch.cat(list(actual))
    labels = (one.argmax(-1) != other.argmax(-1)).double().mean()
    return Difference(float((one - other).abs().max()), float(labels))


def measure(model: ModelFile, point: CompressionPoint, run: Run) -> Difference:
    """How far `run`, a network with normalization inside, is from that of `model`."""
    network = model.build()
    expected: list[Tensor] = []
    actual: list[Tensor] = []
    for batch in batches(model.header.architecture):
        expected += our_logits(network, normalized(batch) if model.header.normalize else batch, point)
        logits, frames = run(batch.audio.numpy(), batch.lengths.numpy())
        actual += valid_rows(torch.from_numpy(logits), torch.from_numpy(frames))
    return difference(expected, actual)
