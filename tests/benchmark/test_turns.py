"""Runtimes in turns: their order, what becomes of one that fails, and the errors of their outputs."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from w2v_compress.benchmark import turns
from w2v_compress.benchmark.peers import Runtime, Setting
from w2v_compress.benchmark.process import Answer, WorkerError
from w2v_compress.benchmark.turns import Competitor, output_errors, run_in_turns

CASES = {"2 s": 1, "batch of 2": 2}
"""Utterances of each."""
TIMES = {"exact": [0.4], "fast": [0.3, 0.1, 0.2], "reference": [1.0]}
"""Seconds of timed runs, over and over."""


class StubWorker:
    """A worker without a process: it gives the samples as logits of the first of two units.

    Those of `fast` are off by 0.5 in a batch, and `short` leaves out a frame.
    """

    calls: list[tuple[str, str, bool]]
    """(runtime, files, whether the output was asked for), in order"""
    fails_at: dict[str, int]
    """By runtime: the run, counted from 1, that fails."""

    def __init__(self, runtime: Runtime, setting: Setting) -> None:
        self.name, self.runs, self.timed, self.closed = runtime.name, 0, 0, False

    def run(self, audio: Sequence[Path], out: Path | None = None) -> Answer:
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
        return Answer(seconds=seconds, peak_bytes=self.runs, idle_seconds=2.0, idle_processor_seconds=0.5)

    def close(self) -> None:
        self.calls.append((self.name, "closed", False))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> type[StubWorker]:
    monkeypatch.setattr(turns, "Worker", StubWorker)
    monkeypatch.setattr(turns, "PAUSE", 0)
    StubWorker.calls, StubWorker.fails_at = [], {}
    return StubWorker


@pytest.fixture
def enter(tmp_path: Path) -> Callable[..., Competitor]:
    """enter(name) takes part with the two cases; what it says is in `enter.said`."""
    audio = {}
    for case, utterances in CASES.items():
        audio[case] = [tmp_path / f"{utterances}{letter}.npy" for letter in "ab"[:utterances]]
        for path in audio[case]:
            np.save(path, np.arange(1.0, 4.0) + utterances)

    def make(name: str, network: str = "tiny", point: str = "1,1,1", said: list[str] | None = None) -> Competitor:
        runtime = Runtime(name=name, module="none", precision="fp32")
        setting = Setting(model=tmp_path, folder=tmp_path, precision="fp32", point=point)
        say = [].append if said is None else said.append
        return Competitor(runtime, setting, audio, network, done=lambda: None, say=say)

    return make


def test_every_round_runs_each_once_in_the_same_order(stub: type[StubWorker], enter: Callable[..., Competitor]):
    exact, fast, reference = competitors = [enter(name) for name in ("exact", "fast", "reference")]
    run_in_turns(competitors, 3, exact=exact, reference=reference)
    names = ["exact", "fast", "reference"]
    expected = [(name, "1a", False) for name in names]  # start
    expected += [("exact", each, True) for each in ("1a", "2a", "2b")]
    for files in ("1a", "2a 2b"):
        expected += [(name, files, True) for name in names]  # uncounted
        expected += [(name, files, False) for name in names] * 3
    assert stub.calls == [*expected, *((name, "closed", False) for name in reversed(names))]
    assert fast.report.peak_bytes == 1 + 2 * (1 + 3)


def test_medians_and_ratios_are_of_the_timed_runs(stub: type[StubWorker], enter: Callable[..., Competitor]):
    exact, fast, reference = competitors = [enter(name) for name in ("exact", "fast", "reference")]
    run_in_turns(competitors, 9, exact=exact, reference=reference)
    assert [len(case.times) for case in fast.report.cases] == [9, 9]
    assert sorted(fast.report.cases[0].times) == pytest.approx([100] * 3 + [200] * 3 + [300] * 3)
    assert fast.report.cases[0].milliseconds == pytest.approx(200)
    assert [case.times_faster for case in fast.report.cases] == pytest.approx([5, 5])
    assert [case.times_faster for case in exact.report.cases] == pytest.approx([2.5, 2.5])
    assert [case.times_faster for case in reference.report.cases] == [1, 1]
    assert fast.report.idle_processors == 0.25
    assert fast.report.start_seconds is not None
    assert fast.report.start_seconds >= 0


def test_errors_are_those_to_what_is_exact_for_each_utterance_alone(
    stub: type[StubWorker], enter: Callable[..., Competitor]
):
    exact, fast = competitors = [enter("exact"), enter("fast")]
    elsewhere, other = enter("elsewhere", point="2,1,1"), enter("other", network="large")
    run_in_turns([*competitors, elsewhere, other], 1, exact=exact, reference=fast)
    alone, batch = (case.errors for case in fast.report.cases)
    assert alone is not None
    assert batch is not None
    assert (alone.largest, alone.rms, alone.changed_frames) == (0, 0, 0)
    assert batch.largest == batch.rms == 0.25  # 0.5 in one of two units: half of it is a constant of the frame
    assert [case.errors for case in elsewhere.report.cases + other.report.cases] == [None] * 4


@pytest.mark.parametrize("run", [1, 2, 4])
def test_one_that_fails_drops_out_and_the_others_go_on(
    run: int, stub: type[StubWorker], enter: Callable[..., Competitor]
):
    stub.fails_at = {"fast": run}
    said: list[str] = []
    exact, fast, reference = competitors = [enter(name, said=said) for name in ("exact", "fast", "reference")]
    run_in_turns(competitors, 3, exact=exact, reference=reference)
    assert said == ["fast at 1,1,1 failed: out of luck"]
    assert fast.report.error == "out of luck"
    assert [case.milliseconds for case in fast.report.cases] == [None, None]
    assert sum(name == "fast" for name, files, _ in stub.calls if files != "closed") == run - 1
    for other in (exact, reference):
        assert other.report.error is None
        assert all(len(case.times) == 3 and case.times_faster is not None for case in other.report.cases)


def test_without_the_reference_there_are_times_and_no_ratios(stub: type[StubWorker], enter: Callable[..., Competitor]):
    stub.fails_at = {"reference": 6, "exact": 1}
    exact, fast, reference = competitors = [enter(name) for name in ("exact", "fast", "reference")]
    run_in_turns(competitors, 3, exact=exact, reference=reference)
    assert all(case.milliseconds is not None and case.times_faster is None for case in fast.report.cases)
    assert all(case.errors is None for case in fast.report.cases)


def test_another_number_of_frames_is_a_failure(stub: type[StubWorker], enter: Callable[..., Competitor]):
    exact, short = enter("exact"), enter("short")
    run_in_turns([exact, short], 1, exact=exact, reference=exact)
    assert short.report.error == "it gives (frames, units) of [(2, 2)] for 2 s; they must be [(3, 2)]"


def test_output_errors_of_known_changes():
    generator = np.random.default_rng(0)
    exact = [generator.normal(size=(frames, 4)).astype(np.float32) for frames in (5, 3)]
    shifted = [logits + generator.normal(size=(len(logits), 1)).astype(np.float32) for logits in exact]
    errors = output_errors(shifted, exact)  # as a log-softmax shifts them
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
