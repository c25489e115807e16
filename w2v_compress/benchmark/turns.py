"""Runtimes in processes of their own, run in turns: time, start-up, memory, and how far their outputs are off."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .peers import Logits, Runtime, Setting
from .process import Answer, Worker, WorkerError

PAUSE = 0.05
"""Seconds after each run, in which the threads of the runtime that ran fall asleep."""


@dataclass(kw_only=True)
class CaseReport:
    """What one runtime made of a case: audio that is run at once. None is for what could not be measured."""

    case: str
    times: list[float] = field(default_factory=list)
    """Milliseconds of each run, in their order."""
    milliseconds: float | None = None
    """Their median."""
    times_faster: float | None = None
    """Than the reference of the times, which ran in the same turns."""
    errors: "OutputErrors | None" = None


@dataclass(frozen=True, kw_only=True)
class OutputErrors:
    """How far logits are off, up to a constant in each frame, which the softmax does not see."""

    largest: float
    rms: float
    """Root mean square of the difference."""
    relative: float
    """That, over the root mean square of the exact ones."""
    changed_frames: float
    """Share of the frames whose best label is another one."""


@dataclass(kw_only=True)
class RuntimeReport:
    """One runtime at one point. None is for what could not be measured."""

    runtime: str
    precision: str
    network: str
    point: str
    start_seconds: float | None = None
    """From the start of the process to the output of the shortest audio; its files had been read shortly before."""
    peak_bytes: int | None = None
    """Most memory that the process held, over all cases."""
    idle_processors: float | None = None
    """Processors kept busy while it waited for its turns: threads that spin would disturb the others."""
    error: str | None = None
    """Why it failed, if it did."""
    cases: list[CaseReport] = field(default_factory=list)


class Competitor:
    """A runtime that takes part: its process, and its report, which fills as it runs."""

    def __init__(
        self,
        runtime: Runtime,
        setting: Setting,
        audio: Mapping[str, Sequence[Path]],
        network: str,
        *,
        done: Callable[[], object],
        say: Callable[[str], None],
    ) -> None:
        """audio: the waveforms of each case, a file each. done: called after each run. say: told why it fails."""
        self.runtime, self.setting, self.audio = runtime, setting, audio
        self.report = RuntimeReport(
            runtime=runtime.name,
            precision=runtime.precision,
            network=network,
            point=setting.point,
            cases=[CaseReport(case=case) for case in audio],
        )
        self._done, self._say = done, say
        self._worker: Worker | None = None

    def start(self) -> None:
        """Start the process, and run the shortest audio."""
        files = [path for paths in self.audio.values() for path in paths]
        began = time.perf_counter()
        self._worker = Worker(self.runtime, self.setting)
        if self._run([min(files, key=lambda path: path.stat().st_size)]) is not None:
            self.report.start_seconds = time.perf_counter() - began - PAUSE

    def output(self, audio: Sequence[Path]) -> list[Logits] | None:
        """What it gives for these waveforms, run as one batch; None once it has failed."""
        out = self.setting.folder / f"{self.runtime.name}.npz"
        if self._run(audio, out) is None:
            return None
        with np.load(out, allow_pickle=False) as arrays:
            return [arrays[f"arr_{index}"] for index in range(len(audio))]

    def take_turn(self, case: CaseReport) -> None:
        """One timed run."""
        answer = self._run(self.audio[case.case])
        if answer is not None:
            case.times.append(1000 * answer.seconds)

    def compare(self, case: CaseReport, exact: Mapping[str, Sequence[Logits]]) -> None:
        """Run the case, untimed, and compare what it gives with what is exact, where that is known."""
        output, expected = self.output(self.audio[case.case]), exact.get(case.case)
        if output is None or expected is None:
            return
        if [logits.shape for logits in output] != [logits.shape for logits in expected]:
            shapes = [[logits.shape for logits in each] for each in (output, expected)]
            self._fail(f"it gives (frames, units) of {shapes[0]} for {case.case}; they must be {shapes[1]}")
            return
        case.errors = output_errors(output, expected)

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()

    def _run(self, audio: Sequence[Path], out: Path | None = None) -> Answer | None:
        if self._worker is None or self.report.error is not None:
            return None
        try:
            answer = self._worker.run(audio, out)
        except WorkerError as error:
            self._fail(str(error))
            return None
        time.sleep(PAUSE)
        self.report.peak_bytes = answer.peak_bytes
        if answer.idle_seconds > 0:
            self.report.idle_processors = answer.idle_processor_seconds / answer.idle_seconds
        self._done()
        return answer

    def _fail(self, reason: str) -> None:
        self.report.error = reason
        self._say(f"{self.runtime.name} at {self.setting.point} failed: {reason}")


def run_in_turns(
    competitors: Sequence[Competitor], repeats: int, *, exact: Competitor | None, reference: Competitor
) -> None:
    """Fill the reports of `competitors`, which are prepared and have the same cases; those that fail drop out.

    They are started one after the other, each while the others wait. Then, case by case, each runs once uncounted, and
    after that `repeats` times, in turns. exact: what it gives for each utterance alone is what the outputs of those
    with its network and point are compared with. reference: of the times.
    """
    with ExitStack() as stack:
        for competitor in competitors:
            stack.callback(competitor.close)
            competitor.start()
        expected = {} if exact is None else _each_alone(exact)
        for index, _ in enumerate(reference.report.cases):
            turns = [(competitor, competitor.report.cases[index]) for competitor in competitors]
            for competitor, case in turns:
                alike = exact is not None and _network(competitor) == _network(exact)
                competitor.compare(case, expected if alike else {})
            for _ in range(repeats):
                for competitor, case in turns:
                    competitor.take_turn(case)
    for competitor in competitors:
        for case, other in zip(competitor.report.cases, reference.report.cases, strict=True):
            if competitor.report.error is None:
                case.milliseconds = statistics.median(case.times)
                if reference.report.error is None:
                    case.times_faster = statistics.median(other.times) / case.milliseconds


def output_errors(outputs: Sequence[Logits], exact: Sequence[Logits]) -> OutputErrors:
    """Of utterances (frames, units), over all of their frames; logits and log-probabilities alike."""
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


def _each_alone(exact: Competitor) -> dict[str, list[Logits]]:
    """Its output for each utterance of each case; without the cases in which it has failed."""
    found = {}
    for case, paths in exact.audio.items():
        outputs = [output[0] for path in paths if (output := exact.output([path])) is not None]
        if len(outputs) == len(paths):
            found[case] = outputs
    return found


def _network(competitor: Competitor) -> tuple[str, str]:
    return competitor.report.network, competitor.report.point
