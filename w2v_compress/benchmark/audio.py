"""Audio of a benchmark: the waveforms to run, and others to calibrate int8 on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.audio import SAMPLE_RATE, AudioArray, read_audio
from ..data.manifest import read_manifest
from ..data.normalization import normalize
from .plan import CalibrationData, Plan

CALIBRATION_SECONDS = (2.0, 8.0)
"""Lengths of the shortest and the longest piece to calibrate on."""
CALIBRATION_PIECES = 20


@dataclass(frozen=True, kw_only=True)
class AudioFiles:
    """Files (.npy) of waveforms (samples,) at 16 kHz."""

    cases: dict[str, list[Path]]
    """The waveforms of each case."""
    calibration: tuple[Path, ...]
    """The waveforms to calibrate int8 on. None of them is in a case, unless the recording is too short."""


@dataclass(frozen=True, kw_only=True)
class Audio:
    """All waveforms of a benchmark."""

    plain: AudioFiles
    normalized: AudioFiles
    """The same waveforms, normalized as models with `normalize` require."""
    source: str
    """Where the waveforms of the cases come from."""
    calibration: dict[str, Any]
    """Where the waveforms to calibrate on come from, and their number and duration."""


def write_audio(folder: Path, plan: Plan, recording: Path | None) -> Audio:
    """Write the waveforms of each case and those to calibrate on to new files in `folder`.

    They are consecutive pieces of the repeated recording or, without one, of noise whose level varies. With
    `plan.calibration`, those to calibrate on are utterances of a manifest instead. Raises `InputError` if audio cannot
    be read.
    """
    timed = [seconds for case in plan.cases.values() for seconds in case]
    others = [] if plan.calibration else np.linspace(*CALIBRATION_SECONDS, CALIBRATION_PIECES).tolist()
    lengths = [round(seconds * SAMPLE_RATE) for seconds in timed + others]
    if recording is None:
        source, samples = "noise", _noise(sum(lengths), plan.seed)
    else:
        source, samples = str(recording), np.resize(read_audio(recording, allow_silence=False), sum(lengths))
    pieces = iter(np.split(samples, np.cumsum(lengths)[:-1]))
    writer = WaveformWriter(folder)
    cases = {name: [writer.write(next(pieces)) for _ in case] for name, case in plan.cases.items()}
    calibration = list(map(writer.write, _utterances(plan.calibration, plan.seed) if plan.calibration else pieces))
    return Audio(
        plain=writer.files("plain", cases, calibration),
        normalized=writer.files("normalized", cases, calibration),
        source=source,
        calibration={
            "audio": str(plan.calibration or source),
            "utterances": len(calibration),
            "seconds": round(sum(writer.lengths[name] for name in calibration) / SAMPLE_RATE, 1),
        },
    )


class WaveformWriter:
    """Writes waveforms to the folders `plain` and `normalized`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lengths: dict[str, int] = {}
        """Samples of each waveform by its name."""
        for kind in ("plain", "normalized"):
            (folder / kind).mkdir(exist_ok=True)

    def write(self, waveform: AudioArray) -> str:
        """Write a waveform (samples,), and return its name."""
        name = f"{len(self.lengths)}.npy"
        self.lengths[name] = len(waveform)
        np.save(self.folder / "plain" / name, waveform)
        np.save(self.folder / "normalized" / name, normalize(waveform))
        return name

    def files(self, kind: str, cases: Mapping[str, Sequence[str]], calibration: Sequence[str]) -> AudioFiles:
        """Return the paths of waveforms in the folder `kind`."""
        return AudioFiles(
            cases={case: [self.folder / kind / name for name in names] for case, names in cases.items()},
            calibration=tuple(self.folder / kind / name for name in calibration),
        )


def _noise(samples: int, seed: int) -> AudioArray:
    """Return noise (samples,) that alternates between loud and quiet; the start does not depend on the length."""
    noise = np.random.default_rng(seed).normal(scale=0.1, size=samples)
    noise *= np.abs(np.sin(np.arange(samples) / 4000))
    return noise.astype(np.float32)


def _utterances(data: CalibrationData, seed: int) -> Iterator[AudioArray]:
    """Read utterances of a manifest, drawn with `seed`."""
    utterances = read_manifest(data.folder, data.subset)
    for index in np.random.default_rng(seed).permutation(len(utterances))[: data.utterances]:
        yield read_audio(utterances[index].path)
