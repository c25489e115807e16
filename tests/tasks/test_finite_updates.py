"""Updates with a gradient that is not finite change nothing and are counted; many in a row end the training."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.logging import metrics

from w2v_compress.errors import InputError
from w2v_compress.tasks.finite_updates import MAX_SKIPPED


class Optimizer(SimpleNamespace):
    """fairseq's interface of an optimizer in one process in fp32."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(torch=torch.optim.Adam(model.parameters(), 0.1), steps=0)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self.torch.step()
        self.steps += 1


@pytest.fixture
def parts(make_task: Callable[..., Any], make_model: Callable[..., Any]) -> tuple[Any, Any, Any, Optimizer]:
    task = make_task(point="1,1,1")
    model = make_model(task)
    from fairseq.criterions.ctc import CtcCriterion, CtcCriterionConfig

    return task, model, CtcCriterion(CtcCriterionConfig(), task), Optimizer(model)


def spoiled(sample: dict[str, Any]) -> dict[str, Any]:
    """The batch with samples so large that activations overflow."""
    source = torch.full_like(sample["net_input"]["source"], math.inf)
    return sample | {"net_input": sample["net_input"] | {"source": source}}


def update(parts: tuple[Any, Any, Any, Optimizer], sample: dict[str, Any], number: int) -> dict[str, Any]:
    task, model, criterion, optimizer = parts
    model.zero_grad()
    _, _, log = task.train_step(sample, model, criterion, optimizer, number)
    task.optimizer_step(optimizer, model, number)
    with metrics.aggregate(new_root=True) as meters:
        task.reduce_metrics([log], criterion)
    return meters.get_smoothed_values()


def test_a_gradient_that_is_not_finite_changes_nothing(
    parts: tuple[Any, Any, Any, Optimizer], batch: Callable[..., dict[str, Any]]
) -> None:
    _, model, _, optimizer = parts
    assert "skipped_updates" not in update(parts, batch(), 0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moments = {name: state["exp_avg"].clone() for name, state in optimizer.torch.state.items()}
    assert update(parts, spoiled(batch()), 1)["skipped_updates"] == 1
    assert optimizer.steps == 1
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for parameter, moment in moments.items():
        assert torch.equal(optimizer.torch.state[parameter]["exp_avg"], moment)
    assert "skipped_updates" not in update(parts, batch(), 2)
    assert optimizer.steps == 2
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_many_in_a_row_end_the_training(
    parts: tuple[Any, Any, Any, Optimizer], batch: Callable[..., dict[str, Any]]
) -> None:
    for number in range(MAX_SKIPPED - 1):
        update(parts, spoiled(batch()), number)
    update(parts, batch(), MAX_SKIPPED)
    for number in range(MAX_SKIPPED - 1):
        update(parts, spoiled(batch()), number)
    with pytest.raises(InputError, match=f"the gradients of {MAX_SKIPPED} updates in a row are not finite"):
        update(parts, spoiled(batch()), 0)
