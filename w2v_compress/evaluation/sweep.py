"""Sweep over compression points on one test set: error rates, measured time and counted multiply-accumulates."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..data.audio import SAMPLE_RATE, read_audio
from ..data.manifest import Utterance
from ..errors import InputError
from ..model_file.sweep import Sweep, SweptPoint
from ..nn.compression import CompressionPoint, CompressionSpace
from ..progress import Progress, Steps, no_progress
from ..runtime.recognizer import Recognizer
from .compute import count_compute
from .evaluate import evaluate
from .machine import describe_engine, interleaved_latency
from .plots import require_matplotlib, save_figure
from .report import compute_device
from .wer import Interval, compare

MIN_REPEATS = 9


@dataclass(frozen=True, kw_only=True)
class PointReport:
    """Error rates and cost of one compression point; rates are fractions."""

    point: CompressionPoint
    wer: Interval
    cer: Interval
    wer_difference: Interval
    """WER minus that of the reference point, paired by utterance."""
    milliseconds: float
    """Median time for the timed audio."""
    real_time_factor: float
    macs_per_second: float
    """Multiply-accumulates per second of the test set's audio."""
    speed_up: float
    """Measured speed-up over the reference point."""
    counted_speed_up: float
    """Multiply-accumulates of the reference point divided by those of this point."""
    pareto: bool
    """Whether no other point is both faster and more accurate."""


@dataclass(frozen=True, kw_only=True)
class SweepReport:
    """Results of all points. Times are for the same audio at batch size 1, with interleaved runs."""

    points: list[PointReport]
    reference: CompressionPoint
    """Baseline of the differences and speed-ups: the least compressed point, (1, 1, 1) if it was measured."""
    precision: str
    utterances: int
    words: int
    audio_seconds: float
    timed_utterances: int
    timed_seconds: float
    repeats: int
    batch_size: int
    """Batch size at which the error rates were measured."""
    seed: int
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        points = [dataclasses.asdict(row) | {"point": str(row.point)} for row in self.points]
        return dataclasses.asdict(self) | {"reference": str(self.reference), "points": points}

    def to_store(self, subset: str) -> Sweep:
        """Return the summary that a model file stores; `subset` names the test set."""
        points = tuple(
            SweptPoint(
                point=row.point,
                wer=row.wer.value,
                real_time_factor=row.real_time_factor,
                macs_per_second=row.macs_per_second,
            )
            for row in self.points
        )
        return Sweep(subset=subset, precision=self.precision, machine=self.machine, points=points)


def sweep(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    points: Sequence[CompressionPoint] = (),
    *,
    batch_size: int = 8,
    repeats: int = MIN_REPEATS,
    timed_seconds: float = 30.0,
    seed: int = 0,
    progress: Progress = no_progress,
) -> SweepReport:
    """Measure error rates, time and multiply-accumulates at `points`, by default all points of the recognizer's space.

    Times are medians of `repeats` interleaved runs, at least 9, over utterances drawn at random until they last
    `timed_seconds`. `seed` seeds this draw and the bootstrap. `progress` counts utterances at each point and timed
    runs. Raises `InputError` when an utterance cannot be read or the network does not support a point.
    """
    if repeats < MIN_REPEATS:
        raise InputError(f"`repeats` is {repeats}; it must be at least {MIN_REPEATS}")
    points = [recognizer.checked_point(point) for point in points or recognizer.header.space.all_points()]
    reference = CompressionSpace(points=tuple(points)).largest
    recognizer.engine.keep_points(len(points))  # or the interleaved runs would measure their compilation
    steps = Steps(progress, len(points) * (len(utterances) + 1 + repeats))
    reports = {
        point: evaluate(
            recognizer, utterances, batch_size, point=point, seed=seed, progress=lambda done, total: steps.step()
        )
        for point in points
    }
    timed = _timed_audio(utterances, timed_seconds, seed)
    milliseconds = _times(recognizer, timed, points, repeats, steps)
    lengths = [utterance.samples for utterance in utterances]
    macs = {point: count_macs(recognizer, lengths, point) for point in points}
    timed_length = sum(map(len, timed)) / SAMPLE_RATE
    audio_seconds = sum(lengths) / SAMPLE_RATE
    front = pareto_front([(milliseconds[point], reports[point].wer.value) for point in points])
    rows = [
        PointReport(
            point=point,
            wer=reports[point].wer,
            cer=reports[point].cer,
            wer_difference=compare(reports[reference].word_counts, reports[point].word_counts, seed=seed),
            milliseconds=milliseconds[point],
            real_time_factor=milliseconds[point] / 1000 / timed_length,
            macs_per_second=macs[point] / audio_seconds,
            speed_up=milliseconds[reference] / milliseconds[point],
            counted_speed_up=macs[reference] / macs[point],
            pareto=best,
        )
        for point, best in zip(points, front, strict=True)
    ]
    return SweepReport(
        points=rows,
        reference=reference,
        precision=recognizer.engine.precision,
        utterances=len(utterances),
        words=reports[reference].words,
        audio_seconds=audio_seconds,
        timed_utterances=len(timed),
        timed_seconds=timed_length,
        repeats=repeats,
        batch_size=batch_size,
        seed=seed,
        machine=describe_engine(recognizer.engine),
    )


def pareto_front(costs: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each pair of costs whether it is Pareto-optimal: no other is as low in both and lower in one."""
    return [not any(other[0] <= pair[0] and other[1] <= pair[1] and other != pair for other in costs) for pair in costs]


def rate_table(report: SweepReport) -> tuple[list[str], list[list[str]]]:
    """Return column names and lines of the error rates of each point."""
    lines = [
        [
            str(row.point),
            row.wer.percent(),
            "-" if row.point == report.reference else row.wer_difference.percent(),
            row.cer.percent(),
        ]
        for row in report.points
    ]
    return ["point", "WER", f"WER minus {report.reference}", "CER"], lines


def cost_table(report: SweepReport) -> tuple[list[str], list[list[str]]]:
    """Return column names and lines of the time and compute of each point."""
    lines = [
        [
            str(row.point),
            f"{row.real_time_factor:.4f}",
            f"{row.speed_up:.2f}x",
            f"{1e-9 * row.macs_per_second:.2f}",
            f"{row.counted_speed_up:.2f}x",
            "*" if row.pareto else "",
        ]
        for row in report.points
    ]
    return ["point", "real-time factor", "faster", "GMAC per s", "fewer MACs", "best"], lines


def notes(report: SweepReport) -> list[str]:
    """Return notes that explain the tables, one per line."""
    return [
        f"Error rates: {report.utterances} utterances, {report.words} words, with bootstrap 95% intervals. "
        "Best (*): no other point is both faster and more accurate.",
        f"Times: {report.timed_utterances} utterances, {report.timed_seconds:.1f} s, batch 1, median of "
        f"{report.repeats} interleaved runs, {report.precision} on {compute_device(report.machine)}.",
    ]


def plot(report: SweepReport, path: Path, title: str) -> None:
    """Plot WER with its interval over the measured real-time factor as PNG; a line joins the Pareto-optimal points."""
    pyplot = require_matplotlib()
    figure, axis = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for row in report.points:
        color = "tab:blue" if row.pareto else "gray"
        time, rate = row.real_time_factor, 100 * row.wer.value
        error = [[rate - 100 * row.wer.low], [100 * row.wer.high - rate]]
        axis.errorbar([time], [rate], yerr=error, fmt="o", color=color, ecolor="lightgray", capsize=3)
        axis.annotate(str(row.point), (time, rate), textcoords="offset points", xytext=(5, 5), fontsize="small")
    front = sorted((row.real_time_factor, 100 * row.wer.value) for row in report.points if row.pareto)
    axis.plot(*zip(*front, strict=True), color="tab:blue", label="Pareto-optimal points")
    axis.set_xlabel("real-time factor")
    axis.set_ylabel("WER, %, with 95% interval")
    axis.set_title(title)
    axis.margins(0.1)  # leaves space for the labels of the points
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()
    save_figure(figure, path)


def _timed_audio(utterances: Sequence[Utterance], seconds: float, seed: int) -> list[np.ndarray]:
    """Read utterances in random order until they last `seconds`."""
    audio: list[np.ndarray] = []
    for index in np.random.default_rng(seed).permutation(len(utterances)):
        if sum(map(len, audio)) >= seconds * SAMPLE_RATE and audio:
            break
        audio.append(read_audio(utterances[index].path))
    return audio


def _times(
    recognizer: Recognizer, audio: list[np.ndarray], points: Sequence[CompressionPoint], repeats: int, steps: Steps
) -> dict[CompressionPoint, float]:
    """Return the median milliseconds per point for transcribing all `audio`, one utterance after the other."""

    def run(point: CompressionPoint) -> None:
        recognizer.transcribe(audio, SAMPLE_RATE, batch_size=1, point=point)
        steps.step()

    return interleaved_latency({point: partial(run, point) for point in points}, repeats)


def count_macs(recognizer: Recognizer, lengths: Sequence[int], point: CompressionPoint) -> int:
    """Count the multiply-accumulates for utterances of these lengths in samples, window by window."""
    architecture = recognizer.header.architecture
    return sum(
        count_compute(architecture, window.samples.stop - window.samples.start, point).total
        for length in lengths
        for window in recognizer.windows(length, point)
    )
