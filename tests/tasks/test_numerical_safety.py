"""Losses and gradients stay finite in half precision, with extreme inputs, one frame, empty targets and silence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from w2v_compress.distillation.losses import cosine_distance, hidden_distance, kl_divergence

HALF = [torch.float16, torch.bfloat16, torch.float32]
EXTREMES = {
    "zeros": torch.zeros(3, 32),
    "equal": torch.full((3, 32), 1e4),
    "far apart": torch.tensor([6e4, *[-6e4] * 31]).repeat(3, 1),
    "tiny": torch.full((3, 32), 6e-8),
}
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": lambda student, teacher: kl_divergence(student, teacher, 1.0),
    "kl, sharpened": lambda student, teacher: kl_divergence(student, teacher, 0.1),
    "cosine": cosine_distance,
    "hidden": lambda student, teacher: hidden_distance(student, teacher, 1.0, normalize=False),
    "hidden, normalized": lambda student, teacher: hidden_distance(student, teacher, 1.0, normalize=True),
}


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_distillation_losses(name: str, dtype: torch.dtype) -> None:
    for student in EXTREMES.values():
        for teacher in (*EXTREMES.values(), -EXTREMES["far apart"]):
            logits = student.clone().to(dtype).requires_grad_()
            loss = LOSSES[name](logits, teacher.to(dtype))
            assert loss.shape == (3,)
            assert loss.isfinite().all()
            loss.sum().backward()
            assert logits.grad is not None
            assert logits.grad.isfinite().all()


def silence(sample: dict[str, Any]) -> dict[str, Any]:
    return with_source(sample, torch.zeros_like(sample["net_input"]["source"]))


def with_source(sample: dict[str, Any], source: Tensor) -> dict[str, Any]:
    return sample | {"net_input": sample["net_input"] | {"source": source}}


def loud(sample: dict[str, Any]) -> dict[str, Any]:
    return with_source(sample, 1e4 * sample["net_input"]["source"].sign())


def one_frame(sample: dict[str, Any]) -> dict[str, Any]:
    """The second utterance has samples for one frame, and one unit."""
    padding = sample["net_input"]["padding_mask"].clone()
    padding[1, 400:] = True
    target = sample["target"].clone()
    target[1, 1:] = 1
    changed = {"source": sample["net_input"]["source"].masked_fill(padding, 0), "padding_mask": padding}
    return sample | {"net_input": changed, "target": target, "target_lengths": torch.tensor([len(target[0]), 1])}


def no_text(sample: dict[str, Any]) -> dict[str, Any]:
    """The second utterance has no units."""
    target = sample["target"].clone()
    target[1] = 1
    return sample | {"target": target, "target_lengths": torch.tensor([len(target[0]), 0])}


@pytest.mark.parametrize("masks", [False, True], ids=["", "all masked"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("point", ["1,1,1", "4,2,2"])
@pytest.mark.parametrize("spoil", [silence, loud, one_frame, no_text])
def test_updates(
    spoil: Callable[[dict[str, Any]], dict[str, Any]],
    point: str,
    dtype: torch.dtype,
    masks: bool,
    make_task: Callable[..., Any],
    make_model: Callable[..., Any],
    batch: Callable[..., dict[str, Any]],
) -> None:
    from fairseq.criterions.ctc import CtcCriterion, CtcCriterionConfig

    task = make_task(point=point)
    model = make_model(task, mask_prob=1.0 if masks else 0.0, mask_length=2, apply_mask=masks, feature_grad_mult=1.0)
    model.to(dtype).train()
    criterion = CtcCriterion(CtcCriterionConfig(zero_infinity=True), task)
    sample = spoil(batch())
    loss, _, _ = criterion(model, with_source(sample, sample["net_input"]["source"].to(dtype)))
    assert loss.isfinite()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    head = model.w2v_encoder.proj.weight.grad
    assert head.any()
