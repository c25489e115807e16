"""Random numbers in training are functions of the seed and the update."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from w2v_compress import compat

compat.apply()

from fairseq import utils  # noqa: E402
from fairseq.data.audio.raw_audio_dataset import RawAudioDataset  # noqa: E402
from fairseq.data.data_utils import compute_mask_indices  # noqa: E402


def masks(seed: int, **options: Any) -> np.ndarray:
    utils.set_torch_seed(seed)
    return compute_mask_indices((4, 100), None, 0.5, 10, **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"mask_type": "uniform"}, {"mask_type": "normal"}, {"no_overlap": True, "min_space": 1}, {"num_mask_ver": 1}],
    ids=str,
)
def test_masks_are_a_function_of_the_seed(options: dict[str, Any]) -> None:
    assert np.array_equal(masks(1, **options), masks(1, **options))
    assert not np.array_equal(masks(1, **options), masks(2, **options))
    assert 0.1 < masks(1, **options).mean() < 0.9


def test_processes_mask_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    first = masks(1)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert not np.array_equal(masks(1), first)


def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, pretraining: tuple[str, ...], train: Callable[..., None]
) -> None:
    def run(name: str, *updates: int, seed: int = 3) -> dict[str, torch.Tensor]:
        for update in updates:
            settings = [f"optimization.max_update={update}", f"checkpoint.save_dir={tmp_path / name}"]
            train(*pretraining, *settings, f"common.seed={seed}")
            np.random.random(update)  # stock fairseq draws dropped layers from this global state
        return compat.load_checkpoint(tmp_path / name / "checkpoint_last.pt")["model"]

    whole, resumed, other = run("whole", 4), run("resumed", 2, 4), run("other", 4, seed=4)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not all(torch.equal(whole[name], other[name]) for name in whole)


def test_cropping_has_no_deprecated_indexing() -> None:
    dataset = RawAudioDataset(16000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        crop = dataset.crop_to_max_size(torch.arange(20).view(2, 10), 4, dim=1)
    assert crop.shape == (2, 4)
    assert torch.equal(crop[0], torch.arange(4) + crop[0, 0])
    assert dataset.crop_to_max_size(torch.arange(3), 4).tolist() == [0, 1, 2]
    assert {int(dataset.crop_to_max_size(torch.arange(5), 4)[0]) for _ in range(50)} == {0, 1}
