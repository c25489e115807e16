"""Train and validate at compression points: the base of the pre-training and fine-tuning tasks.

Each update runs at the points that `point_sampling` draws for it.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.logging import metrics
from fairseq.logging.meters import safe_round
from torch import Tensor, nn

from ..compat.meters import derived_function
from ..compat.optimizer import excluding_from_step
from ..errors import InputError, prefixed
from ..nn.compression import CompressionPoint, CompressionSpace, parse_points
from ..nn.encoder import Encoder
from .checked_data import CheckedDataConfig, CheckedDataTask
from .finite_updates import FiniteUpdatesTask
from .point_sampling import PointSampler, PointSamplingConfig

Criterion = Callable[[Any, dict[str, Any]], tuple[Tensor, Any, dict[str, Any]]]
"""Signature of a fairseq criterion: model and batch -> loss, sample size, values to log."""
COUNTS = ("ntokens", "nsentences")
"""Values that criterions log about the data, which are the same at every point."""


@dataclass
class CompressionConfig(CheckedDataConfig, PointSamplingConfig):
    """Settings of tasks that train and validate at compression points."""

    valid_points: list[str] = field(
        default_factory=list,
        metadata={
            "help": "compression points S,Q,K to validate at, with metrics such as loss_s2_q1_k1; empty: `point`, or "
            "the default of the model"
        },
    )


class CompressionTask(CheckedDataTask, FiniteUpdatesTask):
    """Mix-in for fairseq tasks whose criterion runs the model once, with the `net_input` of the batch."""

    models = ""
    """Models that accept a point in this task, for an error message."""

    def __init__(self, cfg: Any, **options: Any) -> None:
        """Set up the task. Raises `InputError`, with the field, for an invalid setting."""
        super().__init__(cfg, **options)
        self._sampler = PointSampler(cfg)
        with prefixed("task.valid_points"):
            self.valid_points = parse_points(cfg.valid_points)
            if len(set(self.valid_points)) != len(self.valid_points):
                raise InputError("it must list each point once")
        self._layers = 0  # number of layers of the network, set by build_model
        self._without_gradient: list[nn.Parameter] = []

    def compression_space(self) -> CompressionSpace:
        """Return the points to train at: the configured space, or the single `point`."""
        return self._sampler.space

    def build_model(self, model_cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the model. Raises `InputError` if it does not accept points, or not those of this task."""
        model = super().build_model(model_cfg, from_checkpoint)
        # Stock `wav2vec_ctc` around a network of this package has its encoder, but silently drops the point.
        if "point" not in inspect.signature(model.forward).parameters:
            raise InputError(
                f"model={getattr(model_cfg, '_name', type(model).__name__)} accepts no compression point; "
                f"task={self.cfg._name} needs {self.models}"
            )
        encoder = next(module for module in model.modules() if isinstance(module, Encoder))
        checked = {self._sampler.setting: self._sampler.space.all_points(), "task.valid_points": self.valid_points}
        for setting, points in checked.items():
            with prefixed(setting):
                for point in points:
                    encoder.pools_per_layer(point)
        self._layers = len(encoder.layers)
        return model

    def points_of_update(self, update: int) -> list[CompressionPoint]:
        """Return the points of an update, the largest first.

        They depend only on the seed and the update, so they are equal on every rank, in each batch of the update, and
        after resuming.
        """
        return self._sampler.points(update, self._layers)

    def objective(self, criterion: Criterion, points: int) -> Criterion:
        """Return the objective of each of `points` points of a batch: its part of the mean loss."""

        def share(model: Any, sample: dict[str, Any]) -> tuple[Tensor, Any, dict[str, Any]]:
            loss, sample_size, logging_output = criterion(model, sample)
            return loss / points, sample_size, logging_output

        return share

    def train_step(
        self,
        sample: dict[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> tuple[Tensor, Any, dict[str, Any]]:
        """Run the stock step at each point of the update, one after the other.

        With `sandwich`, each point gets the whole batch; gradient, sample size and logged values are means over the
        points. With `points_per_batch`, each gets a part of the batch, and they are sums; if there are fewer utterances
        than points, it is as with `sandwich`, because all ranks must train the same parameters.
        """
        points = self.points_of_update(update_num)
        if len(points) == 1:
            outcome = super().train_step(
                at_point(sample, points[0]), model, criterion, optimizer, update_num, ignore_grad
            )
        elif self.cfg.points_per_batch > 1 and len(sample["id"]) >= len(points):
            parts = _split_batch(sample, len(points))
            inputs = [at_point(part, point) for part, point in zip(parts, points, strict=True)]
            outcome = self._train_on_each(inputs, model, criterion, optimizer, update_num, ignore_grad)
        else:
            inputs = [at_point(sample, point) for point in points]
            objective = self.objective(criterion, len(points))
            loss, size, log = self._train_on_each(inputs, model, objective, optimizer, update_num, ignore_grad)
            # fairseq divides the gradient by the total sample size. Counting one point, not the sum over points, makes
            # it the gradient of the mean loss.
            outcome = loss, size / len(points), {name: total / len(points) for name, total in log.items()}
        self.drop_infinite_gradients(model, criterion, optimizer)
        # Recorded here, because `legacy_ddp` sets missing gradients to 0. They are the same on every rank.
        self._without_gradient = [parameter for parameter in model.parameters() if parameter.grad is None]
        return outcome

    def _train_on_each(
        self,
        inputs: list[dict[str, Any]],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool,
    ) -> tuple[Tensor, Any, dict[str, Any]]:
        """Run the stock step on each of several inputs of one update, with the same masks for the same batch.

        Returns the sums of losses, sample sizes and logged values.
        """
        outcomes: list[tuple[Tensor, Any, dict[str, Any]]] = []
        for each in inputs:
            last = len(outcomes) == len(inputs) - 1
            with _shared_random_state(last), _gradient_exchange(model, last), _gradient_exchange(criterion, last):
                outcomes.append(super().train_step(each, model, criterion, optimizer, update_num, ignore_grad))
        losses, sizes, logs = zip(*outcomes, strict=True)
        names = dict.fromkeys(name for log in logs for name in log)
        return sum(losses), sum(sizes), {name: sum(log.get(name, 0) for log in logs) for name in names}

    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        """Run the stock step without changing parameters that have no gradient, for all backends and precisions.

        These are upsampling for squeeze factors outside the update, and skipped layers.
        """
        with excluding_from_step(optimizer, self._without_gradient):
            super().optimizer_step(optimizer, model, update_num)

    def valid_step(self, sample: dict[str, Any], model: Any, criterion: Any) -> tuple[Tensor, Any, dict[str, Any]]:
        """Run the stock step at each of `valid_points`; loss and sample size are those of the first."""
        if not self.valid_points:
            return super().valid_step(at_point(sample, self._sampler.point), model, criterion)
        outcomes = []
        for index, point in enumerate(self.valid_points):
            with _shared_random_state(index == len(self.valid_points) - 1):
                outcomes.append(super().valid_step(at_point(sample, point), model, criterion))
        loss, sample_size, log = outcomes[0]
        at_points = {
            f"{name}@{point.label}": value
            for point, outcome in zip(self.valid_points, outcomes, strict=True)
            for name, value in outcome[2].items()
        }
        return loss, sample_size, log | at_points

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Log the stock metrics and, in validation, those of the criterion at each point and their mean.

        The names are, for example, `wer_s2_q1_k1` and `wer_mean`.
        """
        stock = [{name: value for name, value in log.items() if "@" not in name} for log in logging_outputs]
        super().reduce_metrics(stock, criterion)
        if not any("@" in name for log in logging_outputs for name in log):
            return
        labels = [point.label for point in self.valid_points]
        reported: dict[str, None] = {}
        for label in labels:
            outputs = [_without_suffix(log, f"@{label}") for log in logging_outputs]
            reported |= dict.fromkeys(_log_at_point(criterion, outputs, label))
        for name in reported:
            metrics.log_derived(f"{name}_mean", functools.partial(_mean, [f"{name}_{label}" for label in labels]))


def at_point(sample: dict[str, Any], point: CompressionPoint | None) -> dict[str, Any]:
    """Return the batch with `point` as an input of the network; None means the default of the model."""
    return sample if point is None else {**sample, "net_input": {**sample["net_input"], "point": point}}


def _split_batch(sample: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Split a batch into `count` parts of every `count`-th utterance.

    Tensors and lists with an entry for each utterance are split, also nested ones; labels and utterances are counted
    again.
    """
    utterances = len(sample["id"])

    def part(value: Any, start: int) -> Any:
        if isinstance(value, dict):
            return {name: part(each, start) for name, each in value.items()}
        if isinstance(value, Tensor | list) and len(value) == utterances:
            return value[start::count]
        return value

    parts = [part(sample, start) for start in range(count)]
    for each in parts:
        if "nsentences" in each:
            each["nsentences"] = len(each["id"])
        if "target_lengths" in each:
            each["ntokens"] = int(each["target_lengths"].sum())
    return parts


@contextlib.contextmanager
def _shared_random_state(last: bool) -> Iterator[None]:
    """Restore torch's random state on exit unless `last`: all points of a batch share masks and negatives."""
    if last:
        yield
        return
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        yield


def _gradient_exchange(module: Any, last: bool) -> contextlib.AbstractContextManager:
    """Exchange distributed gradients only in the last of several backward passes; before it, sum them locally."""
    return contextlib.nullcontext() if last or not hasattr(module, "no_sync") else module.no_sync()


def _log_at_point(criterion: Any, logging_outputs: list[dict[str, Any]], label: str) -> list[str]:
    """Log the metrics of the criterion at one point under names with its label, and return the original names.

    Meters are copied with their sums and weights, and derived meters are derived again, so the metrics aggregate over
    batches in the same way as the criterion's own.
    """
    with metrics.aggregate(new_root=True) as meters:
        type(criterion).reduce_metrics(logging_outputs)
    names = [name for name in meters if name not in COUNTS]
    for name in names:
        meter = meters[name]
        derive = derived_function(meter)
        if derive is not None:
            metrics.log_derived(f"{name}_{label}", functools.partial(_derived, derive, f"_{label}"))
        else:
            metrics.log_scalar(f"{name}_{label}", meter.val, meter.count, round=meter.round)
    return [name for name in names if not name.startswith("_")]


def _without_suffix(values: dict[str, Any], suffix: str) -> dict[str, Any]:
    """Return the entries whose names end in `suffix`, with the suffix removed."""
    return {name.removesuffix(suffix): value for name, value in values.items() if name.endswith(suffix)}


def _derived(derive: Callable[[dict[str, Any]], float], suffix: str, meters: dict[str, Any]) -> float:
    return derive(_without_suffix(meters, suffix))


def _mean(names: list[str], meters: Any) -> float:
    return safe_round(sum(meters.get_smoothed_value(name) for name in names) / len(names), 5)
