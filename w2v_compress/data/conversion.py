"""Convert recordings of a corpus to utterances of a manifest: decode, validate and, if necessary, write audio."""

import io
import itertools
import os
import re
from collections.abc import Iterator, Sequence
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
from .audio import SAMPLE_RATE, AudioArray, check_duration, decode_file, to_mono_16khz
from .corpora import Recording
from .manifest import Utterance, fits_manifest
from .units import Units, ctc_frames

AudioFormat = Literal["flac", "wav"]


@dataclass(frozen=True)
class Rejection:
    """One rejected utterance."""

    path: str
    """Path of the recording, or name of joined recordings."""
    reason: str
    """Kind of problem in a few words, such as `too short`."""
    detail: str
    """Problem with this utterance."""


@dataclass(frozen=True)
class Converter:
    """Converter from recordings to utterances. Mono WAV and FLAC files at 16 kHz are used in place."""

    folder: Path
    """Folder for converted audio."""
    units: Units
    """Output units, which bound the shortest duration for a text."""
    max_seconds: float
    """Longest duration, in seconds, that is accepted."""
    audio_format: AudioFormat
    """Format of converted audio."""

    def run(
        self, recordings: Sequence[Recording], targets: Sequence[Path], workers: int | None = None
    ) -> Iterator[Utterance | Rejection]:
        """Convert `recordings` to `targets` in `workers` threads, by default one per available core, in order."""
        with ThreadPoolExecutor(workers or available_cores()) as executor:
            yield from executor.map(self.convert, recordings, targets)

    def targets(self, recordings: Sequence[Recording]) -> list[Path]:
        """Return a unique path in `folder` for each recording, named after its location in the corpus."""
        if not recordings:
            return []
        root = os.path.commonpath([os.path.abspath(recording.parts[0].parent) for recording in recordings])
        used: set[str] = set()
        targets = []
        for recording in recordings:
            name = recording.name or os.path.splitext(os.path.relpath(recording.parts[0], root))[0]
            name = re.sub(r"[^\w./-]", "_", name)
            # case-insensitive, like the file systems of macOS and Windows
            unique = next(
                candidate
                for candidate in itertools.chain([name], (f"{name}-{copy}" for copy in itertools.count(2)))
                if candidate.casefold() not in used
            )
            used.add(unique.casefold())
            targets.append(self.folder / f"{unique}.{self.audio_format}")
        return targets

    def convert(self, recording: Recording, target: Path) -> Utterance | Rejection:
        """Return the utterance of `recording`, after writing audio to `target` if necessary, or its rejection.

        Raises `InputError` if `target` cannot be written.
        """
        try:
            audio, source = self._read(recording)
            check_duration(audio, self.max_seconds, name=recording)
            self._check_length(recording, audio)
        except AudioError as error:
            joined = len(recording.parts) > 1
            return Rejection(str(recording), error.reason, str(error) if joined else error.detail)
        if source is None:
            self._write(audio, target)
        return Utterance(source or target, audio.size, recording.text)

    def _read(self, recording: Recording) -> tuple[AudioArray, Path | None]:
        """Read `recording` as 16 kHz mono audio (samples,); also return its file if fairseq can use it unchanged."""
        pieces = []
        for pause, part in zip((0.0, *recording.pauses), recording.parts, strict=True):
            decoded = decode_file(part, max_seconds=self.max_seconds)
            pieces.append(np.zeros(round(pause * SAMPLE_RATE), np.float32))
            pieces.append(to_mono_16khz(decoded.samples, decoded.rate, name=part, allow_silence=False))
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
        """Raise `AudioError` if there are too few frames for CTC."""
        labels = self.units.encode(recording.text)
        frames, needed = Architecture().frames(audio.size), ctc_frames(labels)
        if frames < needed:
            detail = f"gives {frames} output frames of 20 ms; CTC needs {needed} for its {len(labels)} labels"
            raise AudioError(recording, "too short", detail)

    def _write(self, audio: AudioArray, target: Path) -> None:
        # scale down rather than clip samples beyond full scale (from floats, or from resampling at full scale)
        audio = audio / max(1.0, float(np.abs(audio).max()))
        encoded = io.BytesIO()  # libsndfile has no useful error for a full disk; write_bytes has
        soundfile.write(encoded, audio, SAMPLE_RATE, format=self.audio_format.upper(), subtype="PCM_16")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{target.parent}: the folder cannot be created: {error.strerror or error}") from None
        with replacing(target) as temporary:
            temporary.write_bytes(encoded.getvalue())
