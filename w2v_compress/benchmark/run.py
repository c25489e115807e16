"""Benchmark of runtimes: the same network, audio and threads, separate processes, interleaved; docs/benchmark.md."""

import importlib.metadata
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..evaluation.machine import describe_machine
from ..interop.fairseq_checkpoint import export_random
from ..model_file.header import Header
from ..model_file.tensor_file import describe_model, read_header
from ..nn.compression import UNCOMPRESSED, CompressionPoint
from ..nn.device import half_precision, has_int8_units
from ..progress import Progress, Steps, no_progress
from . import peers as registry
from .audio import Audio, AudioFiles, write_audio
from .measurement import RuntimeMeasurement, RuntimeReport, run_interleaved
from .peers import Runtime, Setting
from .plan import Plan, Skipped, select_runtimes
from .process import busy_processes, convert_for, in_new_process

Warn = Callable[[str], None]


def benchmark(
    plan: Plan,
    *,
    model: Path | None = None,
    architecture: str | None = None,
    against: str | None = None,
    peers: Sequence[str] = ("all",),
    recording: Path | None = None,
    progress: Progress = no_progress,
    warn: Warn = lambda _line: None,
) -> dict[str, Any]:
    """Measure time, memory, start-up time and output errors of our runtime and of peers; returns a report for JSON.

    At each point of the plan, the runtimes and the baseline run interleaved, see `measurement.run_interleaved`. Peers
    that do not support compression run only at (1, 1, 1).

    Args:
        plan: The points, lengths, repeats, threads and calibration, and how busy the machine is.
        model: A floating-point model file.
        architecture: In place of `model`: the name of an architecture, which gets random weights.
        against: Name of the architecture (random weights) of the baseline; by default it is the measured network.
        peers: Names of the peers, or `["all"]`.
        recording: Audio to cut the utterances from, repeated as needed; by default noise.
        progress: Counts points, in fractions.
        warn: Called with a line of text for each runtime that is skipped or fails.

    Raises `InputError` when an argument is invalid.
    """
    if (model is None) == (architecture is None):
        raise InputError("give either `model` or `architecture`")
    runtimes, skipped = select_runtimes(peers)
    if against is not None and registry.PEERS[registry.BASELINE] not in runtimes:
        raise InputError(f"--against: the baseline is {registry.BASELINE}, which must be one of the peers")
    with tempfile.TemporaryDirectory(prefix="w2v-compress-") as name:
        folder = Path(name)
        own = Network.create(folder / "own", model, architecture, plan.seed)
        other = own if against is None else Network.create(folder / "against", None, against, plan.seed)
        points = plan.points or (own.header.point,)
        own.check_points(points)
        audio = write_audio(folder, plan, recording)
        runner = BenchmarkRunner(plan, folder, own, audio, runtimes, warn)
        for each in skipped:
            runner.skip(each)
        baseline = runner.choose_baseline(other, points[0])
        groups = []
        for done, point in enumerate(points):
            reports = runner.measure_point(point, baseline, partial(_report_share, progress, done, len(points)))
            groups.append({"point": str(point), "runtimes": [asdict(report) for report in reports]})
        description = describe_model(own.path)
    return {
        "network": {"title": own.title, "weights": "random" if model is None else str(model)}
        | {name: description[name] for name in ("architecture", "normalize", "parameters", "bytes")},
        "reference": baseline.describe(),
        "exact": registry.EXACT.name,
        "points": [str(point) for point in points],
        **{name: list(getattr(plan, name)) for name in ("seconds", "batch")},
        **{name: getattr(plan, name) for name in ("repeats", "threads", "seed", "busy")},
        "audio": audio.source,
        "calibration": audio.calibration,
        "machine": _machine(plan),
        "versions": _versions(runtimes),
        "left_out": [asdict(each) for each in runner.skipped],
        "groups": groups,
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A model file to measure, and the folder for the files that are converted from it."""

    title: str
    path: Path
    header: Header
    folder: Path

    @classmethod
    def create(cls, folder: Path, model: Path | None, architecture: str | None, seed: int) -> "Network":
        """Return the network of a model file, or of an architecture with random weights; creates `folder`."""
        folder.mkdir()
        path = model
        if path is None:
            path = folder / "model.safetensors"
            in_new_process(export_random, architecture, path, seed)
        header = read_header(path)
        if header.quantization is not None:
            raise InputError(f"{path}: is quantized; give the floating-point model that it was made from")
        return cls(title=architecture or str(model), path=path.resolve(), header=header, folder=folder)

    def check_points(self, points: Iterable[CompressionPoint]) -> None:
        """Raise `InputError` when the network does not support one of `points`."""
        for point in points:
            self.header.architecture.pools_per_layer(point)


@dataclass(frozen=True)
class Combination:
    """A runtime with the network and the compression point that it runs."""

    runtime: Runtime
    network: Network
    point: CompressionPoint

    def describe(self) -> dict[str, str]:
        """Return the names of the fields for JSON."""
        return {"runtime": self.runtime.name, "network": self.network.title, "point": str(self.point)}


class BenchmarkRunner:
    """Converts the model for every runtime and measures them point by point."""

    def __init__(
        self, plan: Plan, folder: Path, network: Network, audio: Audio, runtimes: Sequence[Runtime], warn: Warn
    ) -> None:
        self.plan, self.folder, self.network, self.audio, self.warn = plan, folder, network, audio, warn
        self.runtimes = list(runtimes)
        self.skipped: list[Skipped] = []

    def skip(self, skipped: Skipped) -> None:
        """Record a runtime that is not measured, and warn about it."""
        self.skipped.append(skipped)
        self.warn(f"skipped {skipped.runtime}: {skipped.reason}")

    def choose_baseline(self, network: Network, point: CompressionPoint) -> Combination:
        """Return the combination that speed-ups are relative to.

        This is transformers in fp32 with `network` if it is one of the runtimes and supports the network, else our fp32
        runtime at `point`. Raises `InputError` when it does not support a `network` other than the measured one.
        """
        baseline = Combination(registry.PEERS[registry.BASELINE], network, UNCOMPRESSED)
        if baseline.runtime in self.runtimes:
            if self._convert(baseline, network.folder):
                return baseline
            if network is not self.network:
                raise InputError(f"--against: {registry.BASELINE} cannot run {network.title}")
            self.runtimes.remove(baseline.runtime)
        return Combination(registry.EXACT, self.network, point)

    def measure_point(self, point: CompressionPoint, baseline: Combination, progress: Progress) -> list[RuntimeReport]:
        """Measure the baseline and all runtimes that support `point`; `progress` counts runs."""
        combinations = [
            Combination(runtime, self.network, point)
            for runtime in self.runtimes
            if runtime.every_point or point == UNCOMPRESSED
        ]
        if baseline not in combinations:
            combinations.insert(0, baseline)
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            folder = Path(name)
            combinations = [each for each in combinations if self._convert(each, folder)]
            utterances = sum(map(len, self.plan.cases.values()))
            runs = len(combinations) * (1 + len(self.plan.cases) * (1 + self.plan.repeats)) + utterances
            steps = Steps(progress, runs)
            measurements = {each: self._measurement(each, folder, steps.step) for each in combinations}
            with busy_processes(self.plan.busy):
                run_interleaved(
                    list(measurements.values()),
                    self.plan.repeats,
                    exact=measurements.get(Combination(registry.EXACT, self.network, point)),
                    baseline=measurements[baseline],
                )
        return [measurement.report for measurement in measurements.values()]

    def _convert(self, combination: Combination, folder: Path) -> bool:
        """Convert the model for a combination; if this fails, record the runtime as skipped and return False."""
        reason = convert_for(combination.runtime, self._setting(combination, folder))
        if reason is not None:
            place = f"{combination.network.title} at {combination.point}"
            self.skip(Skipped(runtime=combination.runtime.name, reason=f"{place}: {reason}"))
        return reason is None

    def _setting(self, combination: Combination, folder: Path) -> Setting:
        """Return the setting of a combination; points share the files of a runtime that do not depend on them."""
        return Setting(
            model=combination.network.path,
            folder=folder if combination.runtime.files_per_point else combination.network.folder,
            precision=combination.runtime.precision,
            point=str(combination.point),
            threads=self.plan.threads,
            calibration=self._audio(combination).calibration if combination.runtime.calibrated else (),
        )

    def _audio(self, combination: Combination) -> AudioFiles:
        """Return the audio for a combination, normalized if the network requires it and the runtime does not do it."""
        plain = combination.runtime.normalizes or not combination.network.header.normalize
        return self.audio.plain if plain else self.audio.normalized

    def _measurement(self, combination: Combination, folder: Path, done: Callable[[], object]) -> RuntimeMeasurement:
        """Return the measurement of a combination."""
        return RuntimeMeasurement(
            combination.runtime,
            self._setting(combination, folder),
            self._audio(combination).cases,
            combination.network.title,
            done=done,
            warn=self.warn,
        )


def _report_share(progress: Progress, done: int, total: int, runs_done: float, runs: float) -> None:
    """Report `done` completed points of `total`, and the completed share of the next one."""
    progress(done + runs_done / runs, total)


def _machine(plan: Plan) -> dict[str, Any]:
    """Describe the machine, with the threads of the plan and the units that the precisions use."""
    units = {"int8_units": has_int8_units(), "bf16_units": half_precision(torch.device("cpu")) == torch.bfloat16}
    return describe_machine() | {"threads": plan.threads} | units


def _versions(runtimes: Iterable[Runtime]) -> dict[str, str]:
    """Return the versions of this package, numpy and the packages of the runtimes."""
    packages = {"w2v_compress", "numpy", *(package for runtime in runtimes for package in runtime.packages)}
    distributions = importlib.metadata.packages_distributions()
    names = sorted({name for package in packages for name in distributions.get(package, ())})
    return {name: importlib.metadata.version(name) for name in names}
