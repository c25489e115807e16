"""One recording of a corpus to one utterance of a manifest: decoded, checked, and written if it has to be."""

import io
import itertools
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from ..cores import available_cores
from ..errors import AudioError, InputError
from ..files import replacing
from ..nn.architecture import Architecture
from ..progress import Progress, no_progress
from .audio import SAMPLE_RATE, AudioArray, check_duration, decode_file, to_speech
from .corpora import Recording
from .manifest import Utterance, fits_manifest
from .units import Units

AudioFormat = Literal["flac", "wav"]

_frames = Architecture().frames


@dataclass(frozen=True)
class Rejection:
    """One utterance that was refused: its path, the kind of reason, and what is wrong with this one."""

    path: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Converter:
    """Makes the utterances whose audio is not 16 kHz mono WAV or FLAC already in `folder`."""

    folder: Path
    units: Units
    max_seconds: float
    audio_format: AudioFormat

    def run(
        self, recordings: Sequence[Recording], workers: int | None = None, *, progress: Progress = no_progress
    ) -> list[Utterance | Rejection]:
        """Convert `recordings` in `workers` threads; the results are in their order, and `progress` counts them."""
        results = []
        with ThreadPoolExecutor(workers or available_cores()) as executor:
            for result in executor.map(self.convert, recordings, self.targets(recordings)):
                results.append(result)
                progress(len(results), len(recordings))
        return results

    def targets(self, recordings: Sequence[Recording]) -> list[Path]:
        """A path in `folder` for each recording, named after its place in the corpus, no two alike."""
        if not recordings:
            return []
        root = os.path.commonpath([os.path.abspath(recording.parts[0].parent) for recording in recordings])
        taken: set[str] = set()
        targets = []
        for recording in recordings:
            name = recording.name or os.path.splitext(os.path.relpath(recording.parts[0], root))[0]
            name = re.sub(r"[^\w./-]", "_", name)
            # compared without case, as the file systems of macOS and Windows do
            free = next(
                candidate
                for candidate in itertools.chain([name], (f"{name}-{copy}" for copy in itertools.count(2)))
                if candidate.casefold() not in taken
            )
            taken.add(free.casefold())
            targets.append(self.folder / f"{free}.{self.audio_format}")
        return targets

    def convert(self, recording: Recording, target: Path) -> Utterance | Rejection:
        """The utterance of `recording`, its audio written to `target` if need be; or why it is refused.

        Raises `InputError` when `target` cannot be written.
        """
        try:
            audio, usable = self._read(recording)
            check_duration(audio, self.max_seconds, name=recording)
            self._check_length(recording, audio)
        except AudioError as error:
            joined = len(recording.parts) > 1
            return Rejection(str(recording), error.reason, str(error) if joined else error.detail)
        if usable is None:
            self._write(audio, target)
        return Utterance(usable or target, audio.size, recording.text)

    def _read(self, recording: Recording) -> tuple[AudioArray, Path | None]:
        """The speech of `recording`, and its file if fairseq can use that as it is."""
        pieces = []
        for pause, part in zip((0.0, *recording.pauses), recording.parts, strict=True):
            decoded = decode_file(part, max_seconds=self.max_seconds)
            pieces.append(np.zeros(round(pause * SAMPLE_RATE), np.float32))
            pieces.append(to_speech(decoded.samples, decoded.rate, name=part, allow_silence=False))
        path = Path(os.path.abspath(recording.parts[0]))
        usable = (
            len(recording.parts) == 1
            and decoded.rate == SAMPLE_RATE
            and decoded.samples.shape[1] == 1
            and decoded.container in ("WAV", "WAVEX", "FLAC")
            and fits_manifest(path)
        )
        return np.concatenate(pieces), path if usable else None

    def _check_length(self, recording: Recording, audio: AudioArray) -> None:
        """CTC needs a frame for each label, and one for the blank between two that are equal (Graves et al. 2006)."""
        labels = self.units.encode(recording.text)
        needed = len(labels) + sum(first == second for first, second in itertools.pairwise(labels))
        frames = _frames(audio.size)
        if frames < needed:
            detail = f"gives {frames} output frames of 20 ms; CTC needs {needed} for its {len(labels)} labels"
            raise AudioError(recording, "too short", detail)

    def _write(self, audio: AudioArray, target: Path) -> None:
        # samples beyond full scale (floats, or resampled at full scale) are scaled down rather than clipped
        audio = audio / max(1.0, float(np.abs(audio).max()))
        encoded = io.BytesIO()  # libsndfile has no useful message for a full disk; writing bytes has
        soundfile.write(encoded, audio, SAMPLE_RATE, format=self.audio_format.upper(), subtype="PCM_16")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{target.parent}: the folder cannot be made: {error.strerror or error}") from None
        with replacing(target) as temporary:
            temporary.write_bytes(encoded.getvalue())
