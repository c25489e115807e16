"""A fine-tuning task with a tiny elastic network, and batches for it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import w2v_compress.models
import w2v_compress.tasks  # noqa: F401  (patches fairseq and registers)

UNITS = "|ETAONIHSRDLUMWCFGYPBVK'XJQZ"


@pytest.fixture
def optimizer() -> SimpleNamespace:
    """The part of fairseq's optimizer that a step needs."""
    return SimpleNamespace(backward=torch.Tensor.backward)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that has only a dictionary."""
    folder = tmp_path_factory.mktemp("units")
    (folder / "dict.ltr.txt").write_text("".join(f"{symbol} 1\n" for symbol in UNITS))
    return folder


@pytest.fixture
def make_task(data: Path) -> Callable[..., Any]:
    """Return make_task(name="compressed_finetuning", **settings), which sets up a task as fairseq does."""
    from fairseq import tasks
    from omegaconf import OmegaConf

    def make(name: str = "compressed_finetuning", **settings: Any) -> Any:
        common = {"_name": name, "data": str(data), "labels": "ltr", "normalize": True, "seed": 1}
        return tasks.setup_task(OmegaConf.create(common | settings))

    return make


@pytest.fixture
def make_model(tiny_path: Path) -> Callable[..., Any]:
    """Return make_model(task, **settings), which builds a student with the weights of the tiny network."""
    from w2v_compress.models.student_ctc import StudentCtcConfig

    def make(task: Any, **settings: Any) -> Any:
        from omegaconf import OmegaConf

        given = {"_name": "student_ctc", "init_checkpoint": str(tiny_path), "normalize": True, "data": ""}
        return task.build_model(OmegaConf.merge(OmegaConf.structured(StudentCtcConfig), given | settings))

    return make


@pytest.fixture
def batch() -> Callable[..., dict[str, Any]]:
    """Return batch(samples, seed), which makes two utterances, the second shorter, with 4 + seed units each."""

    def make(samples: int = 8000, seed: int = 0) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        source = torch.randn(2, samples, generator=generator)
        padding = torch.zeros(2, samples, dtype=torch.bool)
        padding[1, samples * 2 // 3 :] = True
        units = 4 + seed
        target = torch.randint(5, 20, (2, units), generator=generator)
        target[1, -1] = 1  # <pad>
        target[:, 1] = 4  # |
        return {
            "id": torch.arange(2),
            "net_input": {"source": source.masked_fill(padding, 0), "padding_mask": padding},
            "target": target,
            "target_lengths": torch.tensor([units, units - 1]),
            "ntokens": 2 * units - 1,
        }

    return make
