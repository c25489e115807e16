"""Interleaved measurement: order of the runs, failures, medians and output errors."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from w2v_compress.benchmark import measurement
from w2v_compress.benchmark.measurement import RuntimeMeasurement, output_errors, run_interleaved
from w2v_compress.benchmark.peers import Runtime, Setting
from w2v_compress.benchmark.process import Response, WorkerError

CASES = {"2 s": 1, "batch of 2": 2}
"""Number of utterances of each case."""
TIMES = {"exact": [0.4], "fast": [0.3, 0.1, 0.2], "baseline": [1.0]}
"""Seconds of successive runs, repeated."""


class StubWorker:
    """A worker without a process: the samples are the logits of the first of two units.

    The logits of `fast` are 0.5 too high in a batch, and those of `short` lack a frame.
    """

    calls: list[tuple[str, str, bool]]
    """Runtime, files, and whether the logits were requested, for each run in order."""
    fails_at: dict[str, int]
    """Number of the run that fails, from 1, by runtime."""

    def __init__(self, runtime: Runtime, setting: Setting) -> None:
        self.name, self.runs, self.timed, self.closed = runtime.name, 0, 0, False

    def run(self, audio: Sequence[Path], out: Path | None = None) -> Response:
        self.runs += 1
        if self.runs == self.fails_at.get(self.name):
            raise WorkerError("out of luck")
        self.calls.append((self.name, " ".join(path.stem for path in audio), out is not None))
        if out is not None:
            offset = 0.5 if self.name == "fast" and len(audio) > 1 else 0.0
            first = 1 if self.name == "short" else 0
            np.savez(out, *(np.outer(np.load(path)[first:] + offset, [1, 0]) for path in audio))
        times = TIMES.get(self.name, [1.0])
        seconds = times[(self.runs - 1) % len(times)]
        return Response(seconds=seconds, peak_bytes=self.runs, idle_seconds=2.0, idle_processor_seconds=0.5)

    def close(self) -> None:
        self.calls.append((self.name, "closed", False))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> type[StubWorker]:
    monkeypatch.setattr(measurement, "Worker", StubWorker)
    monkeypatch.setattr(measurement, "PAUSE", 0)
    StubWorker.calls, StubWorker.fails_at = [], {}
    return StubWorker


@pytest.fixture
def enter(tmp_path: Path) -> Callable[..., RuntimeMeasurement]:
    """enter(name) returns a measurement of the runtime `name` with the two cases; `warnings` collects its warnings."""
    audio = {}
    for case, utterances in CASES.items():
        audio[case] = [tmp_path / f"{utterances}{letter}.npy" for letter in "ab"[:utterances]]
        for path in audio[case]:
            np.save(path, np.arange(1.0, 4.0) + utterances)

    def make(
        name: str, network: str = "tiny", point: str = "1,1,1", warnings: list[str] | None = None
    ) -> RuntimeMeasurement:
        runtime = Runtime(name=name, module="none", precision="fp32")
        setting = Setting(model=tmp_path, folder=tmp_path, precision="fp32", point=point)
        warn = [].append if warnings is None else warnings.append
        return RuntimeMeasurement(runtime, setting, audio, network, done=lambda: None, warn=warn)

    return make


def test_runtimes_take_turns_in_the_same_order(stub: type[StubWorker], enter: Callable[..., RuntimeMeasurement]):
    exact, fast, baseline = measurements = [enter(name) for name in ("exact", "fast", "baseline")]
    run_interleaved(measurements, 3, exact=exact, baseline=baseline)
    names = ["exact", "fast", "baseline"]
    expected = [(name, "1a", False) for name in names]  # start
    expected += [("exact", each, True) for each in ("1a", "2a", "2b")]
    for files in ("1a", "2a 2b"):
        expected += [(name, files, True) for name in names]  # warm-up, with errors
        expected += [(name, files, False) for name in names] * 3
    assert stub.calls == [*expected, *((name, "closed", False) for name in reversed(names))]
    assert fast.report.peak_bytes == 1 + 2 * (1 + 3)


def test_medians_and_speed_ups(stub: type[StubWorker], enter: Callable[..., RuntimeMeasurement]):
    exact, fast, baseline = measurements = [enter(name) for name in ("exact", "fast", "baseline")]
    run_interleaved(measurements, 9, exact=exact, baseline=baseline)
    assert [len(case.times) for case in fast.report.cases] == [9, 9]
    assert sorted(fast.report.cases[0].times) == pytest.approx([100] * 3 + [200] * 3 + [300] * 3)
    assert fast.report.cases[0].milliseconds == pytest.approx(200)
    assert [case.times_faster for case in fast.report.cases] == pytest.approx([5, 5])
    assert [case.times_faster for case in exact.report.cases] == pytest.approx([2.5, 2.5])
    assert [case.times_faster for case in baseline.report.cases] == [1, 1]
    assert fast.report.idle_processors == 0.25
    assert fast.report.start_seconds is not None
    assert fast.report.start_seconds >= 0


def test_errors_are_relative_to_single_utterances_of_the_exact_runtime(
    stub: type[StubWorker], enter: Callable[..., RuntimeMeasurement]
):
    exact, fast = measurements = [enter("exact"), enter("fast")]
    elsewhere, other = enter("elsewhere", point="2,1,1"), enter("other", network="large")
    run_interleaved([*measurements, elsewhere, other], 1, exact=exact, baseline=fast)
    alone, batch = (case.errors for case in fast.report.cases)
    assert alone is not None
    assert batch is not None
    assert (alone.largest, alone.rms, alone.changed_frames) == (0, 0, 0)
    assert batch.largest == batch.rms == 0.25  # 0.5 in one of two units, minus the frame's mean
    assert [case.errors for case in elsewhere.report.cases + other.report.cases] == [None] * 4


@pytest.mark.parametrize("run", [1, 2, 4])
def test_a_failed_runtime_is_not_run_any_more(
    run: int, stub: type[StubWorker], enter: Callable[..., RuntimeMeasurement]
):
    stub.fails_at = {"fast": run}
    warnings: list[str] = []
    exact, fast, baseline = measurements = [enter(name, warnings=warnings) for name in ("exact", "fast", "baseline")]
    run_interleaved(measurements, 3, exact=exact, baseline=baseline)
    assert warnings == ["fast at 1,1,1 failed: out of luck"]
    assert fast.report.error == "out of luck"
    assert [case.milliseconds for case in fast.report.cases] == [None, None]
    assert sum(name == "fast" for name, files, _ in stub.calls if files != "closed") == run - 1
    for other in (exact, baseline):
        assert other.report.error is None
        assert all(len(case.times) == 3 and case.times_faster is not None for case in other.report.cases)


def test_without_the_baseline_there_are_no_speed_ups(stub: type[StubWorker], enter: Callable[..., RuntimeMeasurement]):
    stub.fails_at = {"baseline": 6, "exact": 1}
    exact, fast, baseline = measurements = [enter(name) for name in ("exact", "fast", "baseline")]
    run_interleaved(measurements, 3, exact=exact, baseline=baseline)
    assert all(case.milliseconds is not None and case.times_faster is None for case in fast.report.cases)
    assert all(case.errors is None for case in fast.report.cases)


def test_a_different_number_of_frames_is_a_failure(stub: type[StubWorker], enter: Callable[..., RuntimeMeasurement]):
    exact, short = enter("exact"), enter("short")
    run_interleaved([exact, short], 1, exact=exact, baseline=exact)
    assert short.report.error == "logits (frames, units) for 2 s have shapes [(2, 2)]; they must be [(3, 2)]"


def test_output_errors_of_known_changes():
    generator = np.random.default_rng(0)
    exact = [generator.normal(size=(frames, 4)).astype(np.float32) for frames in (5, 3)]
    shifted = [logits + generator.normal(size=(len(logits), 1)).astype(np.float32) for logits in exact]
    errors = output_errors(shifted, exact)  # a log-softmax shifts each frame
    assert errors.largest < 1e-6
    assert errors.changed_frames == 0
    off = [logits.copy() for logits in exact]
    off[1][2] += [0.4, -0.4, 0.4, -0.4]
    errors = output_errors(off, exact)
    assert errors.largest == pytest.approx(0.4, rel=1e-5)
    assert errors.rms == pytest.approx(0.4 / np.sqrt(8), rel=1e-5)  # in one frame of eight
    whole = np.concatenate(exact)
    assert errors.relative == pytest.approx(errors.rms / (whole - whole.mean(1, keepdims=True)).std(), rel=1e-5)
    off = [logits.copy() for logits in exact]
    for frame in (0, 3):
        off[0][frame, off[0][frame].argmin()] += 10
    assert output_errors(off, exact).changed_frames == 2 / 8
