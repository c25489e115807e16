"""Comparison of logits between two networks."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from w2v_compress.interop import parity
from w2v_compress.interop.parity import Difference, compare_logits, measure_difference, parity_batches
from w2v_compress.model_file.storage import ModelFile
from w2v_compress.nn.compression import UNCOMPRESSED


def test_batches_are_three_lengths_alone_and_padded(tiny_model: Callable[..., ModelFile]) -> None:
    architecture = tiny_model().header.architecture
    *alone, together = parity_batches(architecture)
    assert [architecture.frames(int(batch.lengths)) for batch in alone] == list(parity.FRAMES)
    assert not any(batch.has_padding for batch in alone)
    assert together.has_padding
    assert together.lengths.tolist() == [int(batch.lengths) for batch in reversed(alone)]
    for row, length, batch in zip(together.audio, together.lengths, reversed(alone), strict=True):
        assert torch.equal(row[:length], batch.audio[0])
        assert not row[length:].any()


def test_compare_logits() -> None:
    one, other = torch.zeros(3, 2), torch.zeros(1, 2)
    assert compare_logits([one, other], [one.clone(), other.clone()]) == Difference(0.0, 0.0)
    changed = torch.tensor([[0.0, 0.5], [0.0, 0.0], [-0.25, 0.0]])
    assert compare_logits([one, other], [changed, other]) == Difference(0.5, 0.5)
    assert compare_logits([one], [one[:2]]).largest == float("inf")
    with pytest.raises(ValueError, match="out: not written: its logits differ from the network's by up to nan"):
        compare_logits([one], [torch.full((3, 2), torch.nan)]).check(Path("out"))


@pytest.mark.parametrize("normalize", [True, False])
def test_measured_difference_includes_normalization(tiny_model: Callable[..., ModelFile], normalize: bool) -> None:
    model = tiny_model(extractor_mode="default")
    model = dataclasses.replace(model, header=dataclasses.replace(model.header, normalize=normalize))
    network = model.build()

    def run(audio: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        batch = parity.Batch(torch.from_numpy(audio), torch.from_numpy(lengths))
        if normalize is not invert:
            batch = parity.normalize_batch(batch)
        logits, frames = network(batch.audio, batch.lengths)
        return logits.numpy(), frames.numpy()

    invert = False
    assert measure_difference(model, UNCOMPRESSED, run).largest < 1e-4
    invert = True
    assert measure_difference(model, UNCOMPRESSED, run).largest > 1e-2
