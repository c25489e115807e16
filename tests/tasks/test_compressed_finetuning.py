"""In-place distillation against a literal computation, and together with the teacher of `ctc_distillation`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.criterions.ctc import CtcCriterion, CtcCriterionConfig
from fairseq.logging import metrics

from w2v_compress.criterions.ctc_distillation import CtcDistillation, CtcDistillationConfig
from w2v_compress.tasks.compression import at_point


def literal(model: Any, sample: dict[str, Any], points: list[Any], weight: float) -> tuple[torch.Tensor, float, int]:
    """Return the loss in float64, the mean KL over all points but the first, and the number of valid frames.

    The loss is the mean over points of CTC + weight * tokens * mean over frames of KL(largest || point).
    """
    model = model.double()
    source, padding = sample["net_input"]["source"].double(), sample["net_input"]["padding_mask"]
    losses, taught, divergences = [], None, []
    for point in points:
        output = model(source=source, padding_mask=padding, point=point)
        valid = ~output["padding_mask"]  # (batch, frames)
        log_probabilities = output["encoder_out"].log_softmax(-1)
        loss = torch.nn.functional.ctc_loss(
            log_probabilities,
            sample["target"],
            valid.sum(1),
            sample["target_lengths"],
            reduction="sum",
            zero_infinity=True,
        )
        q = log_probabilities.transpose(0, 1)[valid]
        if taught is None:
            taught = q.detach()
        else:
            divergence = (taught.exp() * (taught - q)).sum(-1).mean()
            divergences.append(divergence.item())
            loss = loss + weight * sample["ntokens"] * divergence
        losses.append(loss)
    return torch.stack(losses).mean(), sum(divergences) / len(divergences), int(valid.sum())


def test_the_largest_point_is_distilled_into_the_others(
    make_task: Callable[..., Any], make_model: Callable[..., Any], batch: Callable[..., Any], optimizer: Any
) -> None:
    task = make_task(sandwich=2, inplace_distillation_weight=0.7)
    model, sample = make_model(task), batch()
    criterion = CtcCriterion(CtcCriterionConfig(zero_infinity=True, sentence_avg=False), task)
    points = task.points_of_update(7)
    assert len(set(points)) == 4
    loss, size, log = task.train_step(sample, model, criterion, optimizer, 7)
    assert size == 7
    gradients = {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    expected, divergence, frames = literal(model, sample, points, 0.7)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert log["inplace_frames"] == pytest.approx(frames * 3 / 4)
    with metrics.aggregate(new_root=True) as meters:
        task.reduce_metrics([log, log], criterion)
    assert meters["inplace_kl"].avg == pytest.approx(divergence, rel=1e-4)
    assert divergence > 1e-4
    largest = max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)
    assert len(gradients) > 20
    for name, parameter in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=5e-3, atol=1e-4 * largest)


def test_the_largest_point_gets_no_gradient_from_distillation(
    make_task: Callable[..., Any], make_model: Callable[..., Any], batch: Callable[..., Any]
) -> None:
    """The gradient of its own pass is independent of the weight."""
    gradients = []
    for weight in (0.0, 5.0):
        task = make_task(sandwich=1, inplace_distillation_weight=weight)
        model = make_model(task)
        criterion = CtcCriterion(CtcCriterionConfig(zero_infinity=True, sentence_avg=False), task)
        objective = task.objective(criterion, 3)
        largest = at_point(batch(), task.points_of_update(0)[0])
        objective(model, largest)[0].backward()
        gradients.append(model.w2v_encoder.proj.weight.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_an_external_teacher_is_distilled_into_every_point(
    make_task: Callable[..., Any],
    make_model: Callable[..., Any],
    batch: Callable[..., Any],
    optimizer: Any,
    tiny_path: Path,
    weight: float,
) -> None:
    """The teacher has the same weights, so the loss is 0 at the uncompressed point."""
    task = make_task(sandwich=1, inplace_distillation_weight=weight)
    model, sample = make_model(task), batch()
    cfg = CtcDistillationConfig(
        teacher_checkpoint=str(tiny_path),
        teacher_precision="fp32",
        features_penalty_weight=0.0,
        zero_infinity=True,
        sentence_avg=False,
    )
    criterion = CtcDistillation(cfg, task)
    points = task.points_of_update(3)
    model.train()
    apart = [criterion(model, at_point(sample, point))[2]["kl"] for point in points]
    assert apart[0] == pytest.approx(0, abs=1e-4)
    assert min(apart[1:]) > 1e-3
    _, size, log = task.train_step(sample, model, criterion, optimizer, 3)
    frames = int((~model(**sample["net_input"])["padding_mask"]).sum())
    assert size == frames
    assert log["kl"] == pytest.approx(sum(apart) / 3, rel=1e-4)
    if weight:  # both teachers are the same network at (1, 1, 1)
        assert log["inplace_kl"] == pytest.approx(log["kl"], rel=1e-3)
