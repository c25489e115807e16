"""Our runtime against others: one network, the same audio and threads, a process each, in turns; docs/benchmark.md."""

import importlib.metadata
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.audio import SAMPLE_RATE, AudioArray, read_audio
from ..data.normalization import normalize
from ..errors import InputError
from ..evaluation.machine import describe_machine
from ..interop.fairseq_checkpoint import export_random
from ..model_file.header import Header
from ..model_file.storage import describe_model, read_header
from ..nn.acoustic_model import AcousticModel
from ..nn.compression import UNCOMPRESSED, CompressionPoint
from ..nn.device import half_precision, has_int8_units
from ..nn.meta import without_memory
from ..progress import Progress, no_progress
from .peers import OURS, PEERS, REFERENCE, Runtime, Setting
from .process import in_own_process, prepare
from .turns import Competitor, RuntimeReport, run_in_turns

FEWEST_REPEATS = 9
SECONDS = (2.0, 10.0, 30.0)
BATCH = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
EXACT = OURS[0]
"""What outputs are compared with: our fp32, each utterance alone. Tests hold it to stock fairseq."""
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be run, and how often. Raises `InputError` that names what is wrong."""

    points: tuple[CompressionPoint, ...] = ()
    """Where to run; by default at the model's own point."""
    seconds: tuple[float, ...] = SECONDS
    """Lengths of audio to run alone."""
    batch: tuple[float, ...] = BATCH
    """Lengths of audio to run as one batch."""
    repeats: int = FEWEST_REPEATS
    threads: int = 1
    seed: int = 0
    """Of random weights and of noise."""

    def __post_init__(self) -> None:
        if self.repeats < FEWEST_REPEATS:
            raise InputError(f"`repeats` is {self.repeats}; it must be at least {FEWEST_REPEATS}")
        if self.threads < 1:
            raise InputError(f"`threads` is {self.threads}; it must be at least 1")
        for name in ("seconds", "batch"):
            if any(not 0.1 <= length <= 3600 for length in getattr(self, name)):
                raise InputError(f"`{name}` is {list(getattr(self, name))}; it must list lengths from 0.1 to 3600")
        if len(set(self.seconds)) != len(self.seconds) or not (self.seconds or self.batch):
            raise InputError("`seconds` must list each length once, and one or more where there is no batch")
        if len(set(self.points)) != len(self.points):
            raise InputError("`points` must list each point once")

    @property
    def cases(self) -> dict[str, tuple[float, ...]]:
        """The lengths of what is run at once, by name, in the order in which they are run."""
        cases = {f"{length:g} s": (length,) for length in self.seconds}
        return cases | ({f"batch of {len(self.batch)}": self.batch} if self.batch else {})


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A runtime that is not measured."""

    runtime: str
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A model that takes part, and where its runtimes find what is made of it."""

    title: str
    path: Path
    header: Header
    folder: Path

    @classmethod
    def of(cls, folder: Path, model: Path | None, architecture: str | None, seed: int) -> "Network":
        """The model file, or else one of that architecture with random weights; `folder` is made."""
        folder.mkdir()
        path = model
        if path is None:
            path = folder / "model.safetensors"
            in_own_process(export_random, architecture, path, seed)
        header = read_header(path)
        if header.quantization is not None:
            raise InputError(f"{path}: is quantized; give the floating-point model that it was made from")
        return cls(title=architecture or str(model), path=path.resolve(), header=header, folder=folder)

    def check_points(self, points: Iterable[CompressionPoint]) -> None:
        """Raises `InputError` when the network lacks one of them."""
        with without_memory():
            encoder = AcousticModel(self.header.architecture).w2v_model.encoder
        for point in points:
            encoder.pools_at(point)


@dataclass(frozen=True)
class Audio:
    """Files of the waveforms of each case, as they are and as models with `normalize` want them."""

    plain: dict[str, list[Path]]
    normalized: dict[str, list[Path]]


def benchmark(
    plan: Plan,
    *,
    model: Path | None = None,
    architecture: str | None = None,
    against: str | None = None,
    peers: Sequence[str] = ("all",),
    recording: Path | None = None,
    progress: Progress = no_progress,
    say: Say = lambda _line: None,
) -> dict[str, Any]:
    """Times, memory, start-up and output errors of our runtime and of others, JSON-able.

    model: a floating-point model file; or architecture: the name of one, with random weights. against: the
    architecture (random weights) whose transformers fp32 times are compared with, in place of the model's own.
    recording: audio to run, repeated as often as it takes; else it is noise. progress: counts points, in
    fractions.
    say: told, in a line each, what is left out or fails. Raises `InputError` when an argument is wrong.

    At each point of the plan its runtimes and the reference of the times run in turns, see `turns.run_in_turns`. Peers
    that know no compression points run at (1, 1, 1) alone.
    """
    if (model is None) == (architecture is None):
        raise InputError("give a model file or the name of an architecture, and not both")
    runtimes, left_out = choose_runtimes(peers)
    if against is not None and PEERS[REFERENCE] not in runtimes:
        raise InputError(f"--against: times are compared with {REFERENCE}, which must be one of the peers")
    with tempfile.TemporaryDirectory(prefix="w2v-compress-") as name:
        folder = Path(name)
        own = Network.of(folder / "own", model, architecture, plan.seed)
        other = own if against is None else Network.of(folder / "against", None, against, plan.seed)
        points = plan.points or (own.header.point,)
        own.check_points(points)
        audio = write_audio(folder, plan, recording)
        contest = Contest(plan, folder, own, other, audio, runtimes, say)
        for each in left_out:
            contest.leave_out(each)
        contest.choose_reference(points[0])
        groups = []
        for done, point in enumerate(points):
            reports = contest.run(point, lambda share, done=done: progress(done + share, len(points)))  # type: ignore[misc]
            groups.append({"point": str(point), "runtimes": [asdict(report) for report in reports]})
        description = describe_model(own.path)
    return {
        "network": {"title": own.title, "weights": "random" if model is None else str(model)}
        | {name: description[name] for name in ("architecture", "normalize", "parameters", "bytes")},
        "reference": contest.reference.describe(),
        "exact": EXACT.name,
        "points": [str(point) for point in points],
        **{name: list(getattr(plan, name)) for name in ("seconds", "batch")},
        **{name: getattr(plan, name) for name in ("repeats", "threads", "seed")},
        "audio": "noise" if recording is None else str(recording),
        "machine": _machine(plan),
        "versions": _versions(runtimes),
        "left_out": [asdict(each) for each in contest.left_out],
        "groups": groups,
    }


def choose_runtimes(names: Sequence[str]) -> tuple[list[Runtime], list[LeftOut]]:
    """Ours and the peers called so, and what this machine cannot run; `["all"]` takes every peer that is installed.

    Raises `InputError` for a name that is not known, or of a peer whose package is missing.
    """
    everything = list(names) == ["all"]
    for name in [] if everything else names:
        if name not in PEERS:
            raise InputError(f"--peers: {name!r} is not known; it must be all, or some of {', '.join(PEERS)}")
    chosen, left_out = [], []
    for runtime in (*OURS, *(PEERS.values() if everything else (PEERS[name] for name in dict.fromkeys(names)))):
        reason = runtime.missing_package()
        if reason and not everything:
            raise InputError(f"--peers: {runtime.name} {reason}")
        if reason is None and runtime.precision == "bf16" and half_precision(torch.device("cpu")) != torch.bfloat16:
            reason = "this processor has no units for bf16"
        if reason is None:
            chosen.append(runtime)
        else:
            left_out.append(LeftOut(runtime=runtime.name, reason=reason))
    return chosen, left_out


def write_audio(folder: Path, plan: Plan, recording: Path | None) -> Audio:
    """The waveforms of each case: pieces of the recording, one after the other, or noise, loud and quiet by turns."""
    lengths = [round(seconds * SAMPLE_RATE) for case in plan.cases.values() for seconds in case]
    if recording is None:
        whole = np.random.default_rng(plan.seed).normal(scale=0.1, size=sum(lengths))
        whole *= np.abs(np.sin(np.arange(len(whole)) / 4000))
    else:
        whole = np.resize(read_audio(recording, allow_silence=False), sum(lengths))
    pieces = iter(np.split(whole.astype(np.float32), np.cumsum(lengths)[:-1]))
    numbers = count()

    def write(piece: AudioArray, kind: str) -> Path:
        path = folder / f"{kind}-{next(numbers)}.npy"
        np.save(path, piece)
        return path

    audio = Audio({}, {})
    for name, case in plan.cases.items():
        waveforms = [next(pieces) for _ in case]
        audio.plain[name] = [write(waveform, "plain") for waveform in waveforms]
        audio.normalized[name] = [write(normalize(waveform), "normalized") for waveform in waveforms]
    return audio


@dataclass(frozen=True)
class Seat:
    """A runtime of a network at a point."""

    runtime: Runtime
    network: Network
    point: CompressionPoint

    def describe(self) -> dict[str, str]:
        """For JSON."""
        return {"runtime": self.runtime.name, "network": self.network.title, "point": str(self.point)}


class Contest:
    """A benchmark as it runs."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        own: Network,
        other: Network,
        audio: Audio,
        runtimes: Sequence[Runtime],
        say: Say,
    ) -> None:
        self.plan, self.folder, self.own, self.audio, self.say = plan, folder, own, audio, say
        self.runtimes = list(runtimes)
        self.left_out: list[LeftOut] = []
        self.reference = Seat(PEERS[REFERENCE], other, UNCOMPRESSED)
        """Of the times."""

    def leave_out(self, each: LeftOut) -> None:
        """Note and say it."""
        self.left_out.append(each)
        self.say(f"left out: {each.runtime}: {each.reason}")

    def choose_reference(self, point: CompressionPoint) -> None:
        """Where transformers fp32 does not take part, or has no such network, times are compared with our fp32 at
        `point`.
        """
        if self.reference.runtime not in self.runtimes:
            self.reference = Seat(EXACT, self.own, point)
        elif not self._prepared(self.reference, self.reference.network.folder):
            if self.reference.network is not self.own:
                raise InputError(f"--against: {REFERENCE} cannot run {self.reference.network.title}")
            self.runtimes.remove(self.reference.runtime)
            self.reference = Seat(EXACT, self.own, point)

    def run(self, point: CompressionPoint, progress: Callable[[float], object]) -> list[RuntimeReport]:
        """Measure the runtimes that there are at `point`, and the reference of the times, side by side."""
        seats = [
            Seat(runtime, self.own, point) for runtime in self.runtimes if runtime.every_point or point == UNCOMPRESSED
        ]
        if self.reference not in seats:
            seats.insert(0, self.reference)
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            seats = [seat for seat in seats if self._prepared(seat, Path(name))]
            utterances = sum(map(len, self.plan.cases.values()))
            runs = len(seats) * (1 + len(self.plan.cases) * (1 + self.plan.repeats)) + utterances
            finished = count(1)
            competitors = {
                seat: self._competitor(seat, Path(name), lambda: progress(next(finished) / runs)) for seat in seats
            }
            run_in_turns(
                list(competitors.values()),
                self.plan.repeats,
                exact=competitors.get(Seat(EXACT, self.own, point)),
                reference=competitors[self.reference],
            )
        return [competitor.report for competitor in competitors.values()]

    def _prepared(self, seat: Seat, place: Path) -> bool:
        """Whether it could be prepared; else it is left out."""
        reason = prepare(seat.runtime, self._setting(seat, place))
        if reason is not None:
            self.leave_out(LeftOut(runtime=seat.runtime.name, reason=f"{seat.network.title} at {seat.point}: {reason}"))
        return reason is None

    def _setting(self, seat: Seat, place: Path) -> Setting:
        return Setting(
            model=seat.network.path,
            folder=place if seat.runtime.every_point else seat.network.folder,
            precision=seat.runtime.precision,
            point=str(seat.point),
            threads=self.plan.threads,
        )

    def _competitor(self, seat: Seat, place: Path, done: Callable[[], object]) -> Competitor:
        plain = seat.runtime.normalizes or not seat.network.header.normalize
        files = self.audio.plain if plain else self.audio.normalized
        return Competitor(seat.runtime, self._setting(seat, place), files, seat.network.title, done=done, say=self.say)


def _machine(plan: Plan) -> dict[str, Any]:
    units = {"int8_units": has_int8_units(), "bf16_units": half_precision(torch.device("cpu")) == torch.bfloat16}
    return describe_machine() | {"threads": plan.threads} | units


def _versions(runtimes: Iterable[Runtime]) -> dict[str, str]:
    """Of this package, of numpy and of what the runtimes import."""
    packages = {"w2v_compress", "numpy", *(package for runtime in runtimes for package in runtime.packages)}
    distributions = importlib.metadata.packages_distributions()
    names = sorted({name for package in packages for name in distributions.get(package, ())})
    return {name: importlib.metadata.version(name) for name in names}
