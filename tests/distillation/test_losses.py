"""Distillation losses against literal computations in float64."""

import math

import pytest
import torch

from w2v_compress.distillation.losses import (
    cosine_distance,
    hidden_distance,
    hidden_projections,
    kl_divergence,
    layer_pairs,
)
from w2v_compress.errors import InputError


def literal_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> list[float]:
    """Return T^2 sum_units p log(p / q) of each frame ("Shrinking Bigfoot", section 3) in float64."""
    values = []
    for s, t in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        p = [math.exp((value - max(t)) / temperature) for value in t]
        q = [math.exp((value - max(s)) / temperature) for value in s]
        p, q = [value / sum(p) for value in p], [value / sum(q) for value in q]
        values.append(temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))
    return values


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_kl_equals_the_formula(temperature):
    torch.manual_seed(1)
    student, teacher = 4 * torch.randn(9, 7), 4 * torch.randn(9, 7)
    values = kl_divergence(student, teacher, temperature)
    assert values.tolist() == pytest.approx(literal_kl(student, teacher, temperature), rel=1e-4)
    assert kl_divergence(teacher, teacher, temperature).abs().max().item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_extreme_logits_give_finite_losses_and_gradients(dtype, temperature):
    student = torch.tensor([[6e4, -6e4, 0.0], [0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-6e4, 6e4, 0.0], [6e4, 0.0, -6e4]], dtype=dtype)
    for loss in (
        kl_divergence(student, teacher, temperature).sum(),
        cosine_distance(student, teacher).sum(),
        hidden_distance(student, teacher, 1.0, normalize=False).sum(),
        hidden_distance(student, teacher, 1.0, normalize=True).sum(),
    ):
        student.grad = None
        loss.backward()
        assert loss.isfinite()
        assert student.grad is not None
        assert student.grad.isfinite().all()


def test_distances_equal_l1_and_cosine():
    torch.manual_seed(2)
    student, teacher = torch.randn(5, 6), torch.randn(5, 6)
    for s, t, cosine, hidden in zip(
        student.double().tolist(),
        teacher.double().tolist(),
        cosine_distance(student, teacher).tolist(),
        hidden_distance(student, teacher, 0.3, normalize=False).tolist(),
        strict=True,
    ):
        dot = sum(a * b for a, b in zip(s, t, strict=True))
        expected = 1 - dot / math.sqrt(sum(a * a for a in s) * sum(b * b for b in t))
        assert cosine == pytest.approx(expected, abs=1e-5)
        l1 = sum(abs(a - b) for a, b in zip(s, t, strict=True)) / 6
        assert hidden == pytest.approx(l1 + 0.3 * expected, abs=1e-5)


def test_normalized_distances_are_independent_of_scale():
    torch.manual_seed(2)
    student, teacher = torch.randn(5, 64), torch.randn(5, 64)
    plain = hidden_distance(student, teacher, 0.0, normalize=True)
    moved = hidden_distance(100 * student + 7, teacher, 0.0, normalize=True)
    torch.testing.assert_close(moved, plain, rtol=1e-3, atol=1e-3)
    standard = [
        (state - state.mean(1, keepdim=True)) / state.std(1, correction=0, keepdim=True) for state in (student, teacher)
    ]
    torch.testing.assert_close(plain, hidden_distance(*standard, 0.0, normalize=False), rtol=1e-3, atol=1e-3)
    assert hidden_distance(100 * student, teacher, 0.0, normalize=False).min() > 10 * plain.max()
    cosine = hidden_distance(student, teacher, 0.3, normalize=True) - plain
    torch.testing.assert_close(cosine, 0.3 * cosine_distance(student, teacher))


def test_layers_are_paired_evenly_or_explicitly():
    assert layer_pairs([], 24, 12) == [(2 * layer, layer) for layer in range(1, 13)]
    assert layer_pairs([], 24, 4) == [(6, 1), (12, 2), (18, 3), (24, 4)]
    assert layer_pairs([], 4, 4) == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert layer_pairs(["8:2", "24:4"], 24, 4) == [(8, 2), (24, 4)]


@pytest.mark.parametrize(
    ("layer_map", "message"),
    [
        (["25:4"], "hidden_layers has '25:4': the teacher's layers are 1 to 24, not 25"),
        (["24:5"], "hidden_layers has '24:5': the student's layers are 1 to 4, not 5"),
        (["0:1"], "the teacher's layers are 1 to 24, not 0"),
        (["8"], "hidden_layers has '8'; it must be \"teacher:student\""),
        (["-1:2"], 'must be "teacher:student"'),
    ],
)
def test_an_invalid_layer_map_is_rejected(layer_map, message):
    with pytest.raises(InputError, match=message):
        layer_pairs(layer_map, 24, 4)


def test_projections_have_parameters_only_if_needed():
    x = torch.randn(3, 8)
    same = hidden_projections(2, 8, 8, always=False)
    assert not list(same.parameters())
    identity = hidden_projections(2, 8, 8, always=True)
    assert len(identity) == 2
    assert torch.equal(identity[0](x), x)
    assert sum(parameter.numel() for parameter in identity.parameters()) == 2 * (8 * 8 + 8)
    assert hidden_projections(2, 8, 12, always=False)[1](x).shape == (3, 12)
