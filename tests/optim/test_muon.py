"""Muon against torch.optim.Muon and torch.optim.AdamW, and in trainings by fairseq."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from w2v_compress import compat
from w2v_compress.optim.muon import FairseqMuon, MuonConfig, MuonWithAdam, orthogonalize

SETTINGS: dict[str, Any] = {"lr": 0.02, "momentum": 0.9, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}


def gradients(*shape: int, count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def trained(optimizer: Callable[[list[torch.Tensor]], torch.optim.Optimizer], start: torch.Tensor) -> torch.Tensor:
    """Parameters after four updates from `start`."""
    parameter = start.clone().requires_grad_()
    stepping = optimizer([parameter])
    for gradient in gradients(*start.shape):
        parameter.grad = gradient.clone()
        stepping.step()
    return parameter.detach()


def ours(parameters: list[torch.Tensor]) -> MuonWithAdam:
    return MuonWithAdam(parameters, **SETTINGS, smallest_matrix=8)


@pytest.mark.parametrize("shape", [(3, 16, 40), (3, 40, 16)], ids=["wide", "tall"])
def test_singular_values_move_close_to_1(shape: tuple[int, int, int]) -> None:
    (matrices,) = gradients(*shape, count=1)
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_singular_vectors_stay() -> None:
    (matrix,) = gradients(1, 16, 40, count=1)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    rotated = left.mT @ orthogonalize(matrix) @ right.mT
    torch.testing.assert_close(rotated, torch.diag_embed(rotated.diagonal(dim1=1, dim2=2)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)], ids=["wide", "tall"])
def test_matrices_are_updated_as_by_torch(shape: tuple[int, int]) -> None:
    """Tolerance: torch computes in bf16."""
    (start,) = gradients(*shape, count=1)
    stock = {name: SETTINGS[name] for name in ("lr", "momentum", "weight_decay")}

    def theirs(parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Muon(parameters, **stock, adjust_lr_fn="match_rms_adamw")

    expected, result = trained(theirs, start) - start, trained(ours, start) - start
    assert (result - expected).norm() < 0.02 * expected.norm()


def test_a_convolution_is_a_matrix() -> None:
    (start,) = gradients(16, 10, 4, count=1)
    flattened = start.reshape(16, 40)
    torch.testing.assert_close(trained(ours, start).reshape(16, 40), trained(ours, flattened), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(40,), (40, 7), (7, 40), ()], ids=["vector", "narrow", "low", "scalar"])
def test_other_parameters_are_updated_by_adamw(shape: tuple[int, ...]) -> None:
    (start,) = gradients(*shape, count=1)
    stock = {name: SETTINGS[name] for name in ("lr", "betas", "eps", "weight_decay")}
    expected = trained(lambda parameters: torch.optim.AdamW(parameters, **stock), start)
    torch.testing.assert_close(trained(ours, start), expected)


def test_parameters_without_gradients_stay() -> None:
    used, unused = torch.ones(16, 16, requires_grad=True), torch.ones(16, 16, requires_grad=True)
    optimizer = ours([used, unused])
    used.grad = torch.eye(16)
    optimizer.step()
    assert torch.equal(unused, torch.ones(16, 16))
    assert not torch.equal(used, torch.ones(16, 16))


@pytest.fixture
def muon(pretraining: tuple[str, ...], train: Callable[..., None], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """muon(folder, *overrides) trains with Muon in a folder below tmp_path, and returns the last checkpoint."""
    kept = [setting for setting in pretraining if not setting.startswith("optimizer")]

    def run(folder: str, *overrides: str) -> dict[str, Any]:
        out = tmp_path / folder
        train(*kept, "optimizer=muon", "optimizer.smallest_matrix=8", f"checkpoint.save_dir={out}", *overrides)
        state: dict[str, Any] = compat.load_checkpoint(out / "checkpoint_last.pt")
        return state

    return run


def test_a_training_goes_on_as_if_it_had_not_ended(muon: Callable[..., dict[str, Any]]) -> None:
    whole = muon("whole", "optimization.max_update=4")
    assert muon("parts", "optimization.max_update=2")["optimizer_history"][-1]["optimizer_name"] == "FairseqMuon"
    resumed = muon("parts", "optimization.max_update=4")
    torch.testing.assert_close(resumed["model"], whole["model"], rtol=0, atol=0)
    momenta = [state for state in resumed["last_optimizer_state"]["state"].values() if "momentum" in state]
    assert momenta


def test_bf16_keeps_matrices(muon: Callable[..., dict[str, Any]]) -> None:
    state = muon("bf16", "common.bf16=true", "optimization.max_update=1")
    assert any("momentum" in slots for slots in state["last_optimizer_state"]["state"].values())


def test_fairseq_does_not_flatten_parameters() -> None:
    cfg = OmegaConf.structured(MuonConfig(lr=[0.001]))
    assert not FairseqMuon(cfg, [torch.nn.Parameter(torch.ones(16, 16))]).supports_flat_params
