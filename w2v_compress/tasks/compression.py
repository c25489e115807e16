"""Training and validation at points of compression: what pre-training and fine-tuning share.

Each update runs at one point, sampled uniformly from a space ("On-demand compute reduction with stochastic wav2vec
2.0", Vyas et al. 2022, as far as its abstract says), or at several of them, among these always the largest and the
smallest (the sandwich rule, "Universally Slimmable Networks", Yu and Huang 2019, section 3.2).
"""

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.logging.meters import MetersDict, safe_round
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from ..compat.optimizer import leaving_untouched
from ..errors import InputError
from ..nn import CompressionPoint, CompressionSpace
from ..nn.compression import parse_points
from ..nn.encoder import Encoder

Criterion = Callable[[Any, dict[str, Any]], tuple[Tensor, Any, dict[str, Any]]]
"""What a fairseq criterion is called as: model and batch -> loss, sample size, what to log."""
COUNTS = ("ntokens", "nsentences")
"""What criterions report of the data; it says nothing of a point."""


@dataclass
class CompressionConfig(FairseqDataclass):
    squeeze: list[int] = field(
        default_factory=lambda: [1, 2, 3, 4], metadata={"help": "squeeze factors to sample from"}
    )
    query_pool: list[int] = field(
        default_factory=lambda: [1, 2], metadata={"help": "query pooling factors to sample from"}
    )
    key_value_pool: list[int] = field(
        default_factory=lambda: [1, 2], metadata={"help": "key-value pooling factors to sample from"}
    )
    points: list[str] = field(
        default_factory=list,
        metadata={"help": "points to sample from, such as 2,1,1, in place of all combinations of the factors"},
    )
    layer_wise: bool = field(default=False, metadata={"help": "sample the pooling factors layer by layer"})
    point: str = field(default="", metadata={"help": "train at this point alone; nothing is sampled"})
    valid_points: list[str] = field(
        default_factory=list,
        metadata={"help": "points to validate at, logged as loss_s2_q1_k1; empty: `point`, or that of the model"},
    )
    sandwich: int = field(
        default=0,
        metadata={"help": "points to sample for each update besides the largest and the smallest; 0: one point alone"},
    )


class CompressionTask(FairseqTask):
    """To be mixed into a task of fairseq whose criterion runs the model once, with the batch's `net_input`."""

    models = ""
    """The models that take a point here, for the error that one gets which does not."""

    def __init__(self, cfg: Any, **options: Any) -> None:
        """Raises `InputError` that names the field of the task which is impossible."""
        super().__init__(cfg, **options)
        with _naming("point"):
            self.point = CompressionPoint.parse(cfg.point) if cfg.point else None
        with _naming("valid_points"):
            self.valid_points = parse_points(cfg.valid_points)
            if len(set(self.valid_points)) != len(self.valid_points):
                raise InputError("it must list each point once")
        with _naming("points"):
            parse_points(cfg.points)
        self._space = _space_of(cfg)
        self._layers = 0  # of the network, known when it is built
        self._without_gradient: list[nn.Parameter] = []
        if cfg.sandwich < 0:
            raise InputError(f"task.sandwich is {cfg.sandwich}; it must be 0 or above")
        if cfg.sandwich and self.compression_space().largest == self.compression_space().smallest:
            raise InputError(f"task.sandwich is {cfg.sandwich}; it must be 0 where there is one point alone")

    def compression_space(self) -> CompressionSpace:
        """The points that are trained: the configured space, or the one pinned point."""
        return self._space if self.point is None else CompressionSpace(points=(self.point,))

    def build_model(self, model_cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """The stock task's; `InputError` when the model takes no point, or not those of this task."""
        model = super().build_model(model_cfg, from_checkpoint)
        # Stock `wav2vec_ctc` over a network of ours has its encoder, but would drop the point without a word.
        if "point" not in inspect.signature(model.forward).parameters:
            raise InputError(
                f"model={getattr(model_cfg, '_name', type(model).__name__)} takes no compression point; "
                f"task={self.cfg._name} needs {self.models}"
            )
        encoder = next(module for module in model.modules() if isinstance(module, Encoder))
        trained = "point" if self.point is not None else "points" if self._space.points else "squeeze"
        for name, points in ((trained, self.compression_space().all_points()), ("valid_points", self.valid_points)):
            with _naming(name):
                for point in points:
                    encoder.pools_at(point)
        self._layers = len(encoder.layers)
        return model

    def points_of_update(self, update: int) -> list[CompressionPoint]:
        """What an update runs at, the largest point first: a function of the seed and the update alone.

        So they are the same on every rank, in each of an update's batches and after resuming.
        """
        space = self.compression_space()
        draws = [space.sample(self.cfg.seed, update, self._layers, draw) for draw in range(max(self.cfg.sandwich, 1))]
        return [space.largest, space.smallest, *draws] if self.cfg.sandwich else draws

    def objective(self, criterion: Criterion, points: int) -> Criterion:
        """What each of the `points` of one batch minimizes: its share of the mean loss."""

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
        """The stock step at the update's point. With several, the gradient is that of their mean loss, each passes
        backward in its turn, and sample size and log are means over them.
        """
        points = self.points_of_update(update_num)
        if len(points) == 1:
            outcome = super().train_step(
                at_point(sample, points[0]), model, criterion, optimizer, update_num, ignore_grad
            )
        else:
            outcome = self._train_at_each(points, sample, model, criterion, optimizer, update_num, ignore_grad)
        # Noted here, since `legacy_ddp` fills them in as it exchanges gradients. They are the same on every rank.
        self._without_gradient = [parameter for parameter in model.parameters() if parameter.grad is None]
        return outcome

    def _train_at_each(
        self,
        points: list[CompressionPoint],
        sample: dict[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool,
    ) -> tuple[Tensor, Any, dict[str, Any]]:
        objective = self.objective(criterion, len(points))
        outcomes: list[tuple[Tensor, Any, dict[str, Any]]] = []
        for point in points:
            last = len(outcomes) == len(points) - 1
            with _same_noise(last), _synchronizing(model, last), _synchronizing(criterion, last):
                inputs = at_point(sample, point)
                outcomes.append(super().train_step(inputs, model, objective, optimizer, update_num, ignore_grad))
        losses, sizes, logs = zip(*outcomes, strict=True)
        # The gradient is divided by the sizes of all batches and ranks: that of one point, not their sum, keeps it the
        # gradient of the mean loss.
        names = dict.fromkeys(name for log in logs for name in log)
        mean = {name: sum(log.get(name, 0) for log in logs) / len(points) for name in names}
        return sum(losses), sum(sizes) / len(points), mean

    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        """The stock step. Parameters without a gradient stay as they are, under every backend and in every precision:
        upsampling for squeeze factors at which the update did not run, and layers that it skipped.
        """
        with leaving_untouched(optimizer, self._without_gradient):
            super().optimizer_step(optimizer, model, update_num)

    def valid_step(self, sample: dict[str, Any], model: Any, criterion: Any) -> tuple[Tensor, Any, dict[str, Any]]:
        """The stock step at each of `valid_points`; loss and sample size are those of the first."""
        if not self.valid_points:
            return super().valid_step(at_point(sample, self.point), model, criterion)
        outcomes = []
        for index, point in enumerate(self.valid_points):
            with _same_noise(index == len(self.valid_points) - 1):
                outcomes.append(super().valid_step(at_point(sample, point), model, criterion))
        loss, sample_size, log = outcomes[0]
        at_points = {
            f"{name}@{point.label}": value
            for point, outcome in zip(self.valid_points, outcomes, strict=True)
            for name, value in outcome[2].items()
        }
        return loss, sample_size, log | at_points

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """The stock metrics, and in validation each of the criterion's by point, `wer_s2_q1_k1`, and as the mean over
        points, `wer_mean`.
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
    """The batch with `point` among the inputs of the network; without one, as it is: the model's own is meant."""
    return sample if point is None else {**sample, "net_input": {**sample["net_input"], "point": point}}


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Puts the field of the task before what is wrong with it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"task.{name}: {error}") from None


def _space_of(cfg: Any) -> CompressionSpace:
    lists = {name: list(getattr(cfg, name)) for name in ("squeeze", "query_pool", "key_value_pool", "points")}
    try:
        return CompressionSpace.from_dict(lists | {"layer_wise": cfg.layer_wise})
    except InputError as error:  # its fields are the task's
        raise InputError(re.sub(r"^compression space: `(\w+)`", r"task.\1", str(error))) from None


@contextlib.contextmanager
def _same_noise(last: bool) -> Iterator[None]:
    """The points of one batch see the same masks and distractors: random numbers advance with the last alone."""
    if last:
        yield
        return
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        yield


def _synchronizing(module: Any, last: bool) -> contextlib.AbstractContextManager:
    """Distributed gradients are summed locally, and exchanged in the last of several backward passes."""
    return contextlib.nullcontext() if last or not hasattr(module, "no_sync") else module.no_sync()


def _log_at_point(criterion: Any, logging_outputs: list[dict[str, Any]], label: str) -> list[str]:
    """Log what the criterion makes of its outputs at one point, under names with its label; gives the criterion's.

    The meters are copied with their sums and weights, and derived ones are derived again, so that over batches the
    metrics add up as the criterion's own do.
    """
    with metrics.aggregate(new_root=True) as meters:
        type(criterion).reduce_metrics(logging_outputs)
    names = [name for name in meters if name not in COUNTS]
    for name in names:
        meter = meters[name]
        if isinstance(meter, MetersDict._DerivedMeter):
            metrics.log_derived(f"{name}_{label}", functools.partial(_derived, meter.fn, f"_{label}"))
        else:
            metrics.log_scalar(f"{name}_{label}", meter.val, meter.count, round=meter.round)
    return [name for name in names if not name.startswith("_")]


def _without_suffix(values: dict[str, Any], suffix: str) -> dict[str, Any]:
    """The entries whose names end in `suffix`, without it."""
    return {name.removesuffix(suffix): value for name, value in values.items() if name.endswith(suffix)}


def _derived(derive: Callable[[dict[str, Any]], float], suffix: str, meters: dict[str, Any]) -> float:
    return derive(_without_suffix(meters, suffix))


def _mean(names: list[str], meters: Any) -> float:
    return safe_round(sum(meters.get_smoothed_value(name) for name in names) / len(names), 5)
