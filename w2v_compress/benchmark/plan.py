"""Plan of a benchmark: the runtimes, compression points, audio and repeats to measure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import InputError
from ..nn.compression import CompressionPoint
from ..nn.device import half_precision
from . import peers
from .peers import Runtime

MIN_REPEATS = 9
SECONDS = (2.0, 10.0, 30.0)
BATCH = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
MAX_CALIBRATION_UTTERANCES = 300


@dataclass(frozen=True, kw_only=True)
class CalibrationData:
    """Speech to calibrate int8 on. Raises `InputError` that names an invalid field."""

    folder: Path
    """Folder of manifests."""
    subset: str = "train"
    """Name of the manifest."""
    utterances: int = 128
    """Number of utterances to draw from the manifest; all of them if it has fewer."""

    def __post_init__(self) -> None:
        if not 1 <= self.utterances <= MAX_CALIBRATION_UTTERANCES:
            raise InputError(f"`utterances` is {self.utterances}; it must be from 1 to {MAX_CALIBRATION_UTTERANCES}")

    def __str__(self) -> str:
        return f"{self.folder}, subset {self.subset}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Configuration of a benchmark. Raises `InputError` that names an invalid field."""

    points: tuple[CompressionPoint, ...] = ()
    """Compression points to run; by default the model's own point."""
    seconds: tuple[float, ...] = SECONDS
    """Lengths of utterances to run at batch size 1."""
    batch: tuple[float, ...] = BATCH
    """Lengths of utterances to run as one batch."""
    repeats: int = MIN_REPEATS
    threads: int = 1
    seed: int = 0
    """Random seed for random weights, noise and the choice of utterances to calibrate on."""
    calibration: CalibrationData | None = None
    """Speech to calibrate int8 on; by default audio like that of the cases."""
    busy: int = 0
    """Number of processes that compute without pause beside the runtimes."""

    def __post_init__(self) -> None:
        if self.repeats < MIN_REPEATS:
            raise InputError(f"`repeats` is {self.repeats}; it must be at least {MIN_REPEATS}")
        if self.threads < 1:
            raise InputError(f"`threads` is {self.threads}; it must be at least 1")
        if self.busy < 0:
            raise InputError(f"`busy` is {self.busy}; it must be at least 0")
        for name in ("seconds", "batch"):
            if any(not 0.1 <= length <= 3600 for length in getattr(self, name)):
                raise InputError(f"`{name}` is {list(getattr(self, name))}; it must list lengths from 0.1 to 3600")
        if len(set(self.seconds)) != len(self.seconds):
            raise InputError("`seconds` must list each length once")
        if not (self.seconds or self.batch):
            raise InputError("`seconds` and `batch` must not both be empty")
        if len(set(self.points)) != len(self.points):
            raise InputError("`points` must list each point once")

    @property
    def cases(self) -> dict[str, tuple[float, ...]]:
        """Names of the cases in the order in which they run, with the lengths of their utterances."""
        cases = {f"{length:g} s": (length,) for length in self.seconds}
        return cases | ({f"batch of {len(self.batch)}": self.batch} if self.batch else {})


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A runtime that is not measured, and the reason."""

    runtime: str
    reason: str


def select_runtimes(names: Sequence[str]) -> tuple[list[Runtime], list[Skipped]]:
    """Return our runtimes and the named peers, and those that this machine cannot run.

    `["all"]` selects every installed peer. Raises `InputError` for an unknown name, and for a peer selected by name
    whose package is missing.
    """
    everything = list(names) == ["all"]
    for name in [] if everything else names:
        if name not in peers.PEERS:
            raise InputError(f"--peers: {name!r} is not known; it must be all, or some of {', '.join(peers.PEERS)}")
    selected = peers.PEERS.values() if everything else (peers.PEERS[name] for name in dict.fromkeys(names))
    runtimes, skipped = [], []
    for runtime in (*peers.OURS, *selected):
        reason = runtime.missing_package()
        if reason and runtime.name in names:
            raise InputError(f"--peers: {runtime.name} {reason}")
        if reason is None and runtime.precision == "bf16" and half_precision(torch.device("cpu")) != torch.bfloat16:
            reason = "bf16 is not faster than fp32 on this processor"
        if reason is None:
            runtimes.append(runtime)
        else:
            skipped.append(Skipped(runtime=runtime.name, reason=reason))
    return runtimes, skipped
