"""Interleaved measurement of runtimes in separate processes: time, start-up, memory and output errors."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .peers import Logits, Runtime, Setting
from .process import Response, Worker, WorkerError

PAUSE = 0.05
"""Seconds to wait after each run until the threads of the runtime sleep."""


@dataclass(kw_only=True)
class CaseReport:
    """Results of one runtime for one case: audio that runs as one batch. None stands for missing results."""

    case: str
    times: list[float] = field(default_factory=list)
    """Milliseconds of each timed run."""
    milliseconds: float | None = None
    """Median of `times`."""
    times_faster: float | None = None
    """Speed-up over the baseline, measured in the same rounds."""
    errors: "OutputErrors | None" = None
    """Errors of the logits, for runtimes of the same network and point as the exact one."""


@dataclass(frozen=True, kw_only=True)
class OutputErrors:
    """Errors of logits after subtracting each frame's mean, which the softmax ignores."""

    largest: float
    """Largest absolute difference."""
    rms: float
    """Root mean square of the difference."""
    relative: float
    """`rms` divided by the root mean square of the exact logits."""
    changed_frames: float
    """Fraction of the frames whose best label differs."""


@dataclass(kw_only=True)
class RuntimeReport:
    """Results of one runtime at one compression point. None stands for missing results."""

    runtime: str
    precision: str
    network: str
    point: str
    start_seconds: float | None = None
    """Seconds from the start of the process to the output for the shortest audio, with its files in the page cache."""
    peak_bytes: int | None = None
    """Peak memory of the process over all cases."""
    idle_processors: float | None = None
    """Mean number of processors that the process kept busy while idle; spinning threads would slow the others."""
    error: str | None = None
    """Reason of a failure."""
    calibration_utterances: int | None = None
    """Number of utterances that int8 was calibrated on; None without calibration."""
    cases: list[CaseReport] = field(default_factory=list)


class RuntimeMeasurement:
    """Measures one runtime in its own process and collects the results in `report`."""

    def __init__(
        self,
        runtime: Runtime,
        setting: Setting,
        audio: Mapping[str, Sequence[Path]],
        network: str,
        *,
        done: Callable[[], object],
        warn: Callable[[str], None],
    ) -> None:
        """Define the measurement, without starting the process.

        Args:
            runtime: The runtime to measure.
            setting: The network and how to run it.
            audio: Files of the waveforms of each case.
            network: Title of the network in the report.
            done: Called after each run.
            warn: Called with a line of text when the runtime fails.
        """
        self.runtime, self.setting, self.audio = runtime, setting, audio
        self.report = RuntimeReport(
            runtime=runtime.name,
            precision=runtime.precision,
            network=network,
            point=setting.point,
            calibration_utterances=len(setting.calibration) if runtime.calibrated else None,
            cases=[CaseReport(case=case) for case in audio],
        )
        self._done, self._warn = done, warn
        self._worker: Worker | None = None

    def start(self) -> None:
        """Start the process, run the shortest audio and record the start-up time."""
        files = [path for paths in self.audio.values() for path in paths]
        began = time.perf_counter()
        self._worker = Worker(self.runtime, self.setting)
        if self._run([min(files, key=lambda path: path.stat().st_size)]) is not None:
            self.report.start_seconds = time.perf_counter() - began - PAUSE

    def output(self, audio: Sequence[Path]) -> list[Logits] | None:
        """Return the logits for waveforms run as one batch, or None if the runtime has failed."""
        out = self.setting.folder / f"{self.runtime.name}.npz"
        if self._run(audio, out) is None:
            return None
        with np.load(out, allow_pickle=False) as arrays:
            return [arrays[f"arr_{index}"] for index in range(len(audio))]

    def time_once(self, case: CaseReport) -> None:
        """Run a case once and record its time."""
        response = self._run(self.audio[case.case])
        if response is not None:
            case.times.append(1000 * response.seconds)

    def compare(self, case: CaseReport, exact: Mapping[str, Sequence[Logits]]) -> None:
        """Run a case without timing it, and record the errors of its logits if `exact` has logits for the case."""
        output, expected = self.output(self.audio[case.case]), exact.get(case.case)
        if output is None or expected is None:
            return
        if [logits.shape for logits in output] != [logits.shape for logits in expected]:
            shapes = [[logits.shape for logits in each] for each in (output, expected)]
            self._fail(f"logits (frames, units) for {case.case} have shapes {shapes[0]}; they must be {shapes[1]}")
            return
        case.errors = output_errors(output, expected)

    def close(self) -> None:
        """Stop the process."""
        if self._worker is not None:
            self._worker.close()

    def _run(self, audio: Sequence[Path], out: Path | None = None) -> Response | None:
        """Run waveforms as one batch, and update memory and idle time; None if the runtime has failed."""
        if self._worker is None or self.report.error is not None:
            return None
        try:
            response = self._worker.run(audio, out)
        except WorkerError as error:
            self._fail(str(error))
            return None
        time.sleep(PAUSE)
        self.report.peak_bytes = response.peak_bytes
        if response.idle_seconds > 0:
            self.report.idle_processors = response.idle_processor_seconds / response.idle_seconds
        self._done()
        return response

    def _fail(self, reason: str) -> None:
        """Record a failure, after which nothing more is run."""
        self.report.error = reason
        self._warn(f"{self.runtime.name} at {self.setting.point} failed: {reason}")


def run_interleaved(
    measurements: Sequence[RuntimeMeasurement],
    repeats: int,
    *,
    exact: RuntimeMeasurement | None,
    baseline: RuntimeMeasurement,
) -> None:
    """Run all measurements and complete their reports; a runtime that fails is not run any more.

    The runtimes are started one after the other, each while the others are idle. For each case, every runtime first
    runs once as a warm-up; then the runtimes take turns for `repeats` rounds.

    Args:
        measurements: The runtimes, whose models have been converted, with the same cases.
        repeats: Number of timed runs of each case.
        exact: The runtime whose logits for single utterances are the reference of the output errors of all runtimes
            of the same network and point.
        baseline: The runtime that speed-ups are relative to.
    """
    with ExitStack() as stack:
        for measurement in measurements:
            stack.callback(measurement.close)
            measurement.start()
        expected = {} if exact is None else _single_outputs(exact)
        for index, _ in enumerate(baseline.report.cases):
            pairs = [(measurement, measurement.report.cases[index]) for measurement in measurements]
            for measurement, case in pairs:
                comparable = exact is not None and _network(measurement) == _network(exact)
                measurement.compare(case, expected if comparable else {})
            for _ in range(repeats):
                for measurement, case in pairs:
                    measurement.time_once(case)
    for measurement in measurements:
        for case, other in zip(measurement.report.cases, baseline.report.cases, strict=True):
            if measurement.report.error is None:
                case.milliseconds = statistics.median(case.times)
                if baseline.report.error is None:
                    case.times_faster = statistics.median(other.times) / case.milliseconds


def output_errors(outputs: Sequence[Logits], exact: Sequence[Logits]) -> OutputErrors:
    """Compare the logits or log-probabilities (frames, units) of utterances over all of their frames."""
    given, expected = (np.concatenate(each).astype(np.float64) for each in (outputs, exact))
    changed = given.argmax(1) != expected.argmax(1)
    given, expected = (each - each.mean(1, keepdims=True) for each in (given, expected))
    difference = given - expected
    rms = float(np.sqrt(np.mean(difference**2)))
    return OutputErrors(
        largest=float(np.abs(difference).max()),
        rms=rms,
        relative=rms / float(np.sqrt(np.mean(expected**2))),
        changed_frames=float(changed.mean()),
    )


def _single_outputs(exact: RuntimeMeasurement) -> dict[str, list[Logits]]:
    """Return the logits for every single utterance of each case, without cases in which the runtime failed."""
    found = {}
    for case, paths in exact.audio.items():
        outputs = [output[0] for path in paths if (output := exact.output([path])) is not None]
        if len(outputs) == len(paths):
            found[case] = outputs
    return found


def _network(measurement: RuntimeMeasurement) -> tuple[str, str]:
    """Return the network and the point of a measurement."""
    return measurement.report.network, measurement.report.point
