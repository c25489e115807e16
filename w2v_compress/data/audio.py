"""Speech from files and arrays, as 16 kHz mono float32; whatever is not sound audio is refused with the reason."""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from ..errors import InputError

SAMPLE_RATE = 16_000
"""Samples a second of everything that the networks hear."""
MIN_RATE, MAX_RATE = 4_000, 384_000
"""Sampling rates, in Hz, that are resampled; others are taken for a mistake."""
MAX_CHANNELS = 64
SILENCE = 2.0**-14
"""Audio that stays this close to its middle (two steps of 16 bits, -84 dBFS) is silent."""

AudioArray = npt.NDArray[np.float32]

_UNKNOWN_SIZE = 0xFFFFFFFF  # what a writer to a pipe leaves where the length of the data belongs
_UNKNOWN_FRAMES = 2**60
_MAX_OGG_PAGE = 27 + 255 + 255 * 255
_INTEGER_SCALES = {"uint8": (128, 128.0), "int16": (0, 2.0**15), "int32": (0, 2.0**31)}


class AudioError(InputError):
    """Audio that is refused: `reason` is its kind in a word or two, `detail` says what is wrong with this one."""

    def __init__(self, name: object, reason: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Decoded:
    """What an audio file holds, as it holds it."""

    samples: AudioArray
    """(samples, channels)"""
    rate: int
    """Samples a second."""
    container: str
    """libsndfile's name of the format: WAV, FLAC, OGG (Opus and Vorbis), ..."""


def read_audio(source: Any, rate: int | None = None, *, allow_silence: bool = True) -> AudioArray:
    """The speech in `source` as 16 kHz mono, shape (samples,).

    `source` is a path, or an array of shape (samples,) or (samples, channels) with its sampling `rate` in Hz: floats
    in [-1, 1], or uint8, int16 or int32 samples. Channels are averaged; other rates are resampled by soxr.
    Raises `AudioError`, an `InputError`, when a file is missing, not audio, damaged or cut short, and when there are
    no samples, samples that are not finite or, unless `allow_silence`, nothing but silence.
    """
    if isinstance(source, str | os.PathLike):
        if rate is not None:
            raise InputError(f"{source}: `rate` goes with an array only; a file states its own")
        decoded = decode_file(Path(source))
        return to_speech(decoded.samples, decoded.rate, name=source, allow_silence=allow_silence)
    if rate is None:
        raise InputError("audio array: `rate`, its samples a second, is needed")
    return to_speech(_array_samples(source), rate, name="audio array", allow_silence=allow_silence)


def decode_file(path: Path, *, max_seconds: float | None = None) -> Decoded:
    """The samples of the audio file at `path`, every one that its header promises.

    libsndfile quietly reads what is left of a WAV, AIFF or Ogg file that was cut short; this refuses it. Raises
    `AudioError` with the reason `missing`, `unreadable`, `empty`, or `overlong` (before decoding) for more than
    `max_seconds`.
    """
    try:
        if not path.exists():
            raise AudioError(path, "missing", "no such file")
        if not path.is_file():
            raise AudioError(path, "unreadable", "is not a file")
        with path.open("rb") as file:
            if not file.read(1):
                raise AudioError(path, "empty", "the file is empty")
            if _is_cut_short(file):
                raise AudioError(path, "unreadable", "is cut short: it ends before the audio that it promises")
        with soundfile.SoundFile(path) as audio:
            frames, audio_rate, container = audio.frames, audio.samplerate, audio.format
            if frames > _UNKNOWN_FRAMES:
                raise AudioError(path, "unreadable", "does not say how long it is (written to a pipe?): re-encode it")
            if max_seconds is not None and frames > max_seconds * audio_rate:
                raise _overlong(path, frames / audio_rate, max_seconds)
            samples = audio.read(dtype="float32", always_2d=True)
    except OSError as error:
        raise AudioError(path, "unreadable", f"cannot be read: {error.strerror or error}") from None
    except (soundfile.SoundFileError, TypeError, MemoryError):  # TypeError: soundfile on the suffix .raw
        raise AudioError(
            path, "unreadable", "is damaged, cut short, or not audio (wav, flac, ogg, opus and others are)"
        ) from None
    if len(samples) < frames:
        raise AudioError(path, "unreadable", f"is cut short: {len(samples)} of {frames} samples can be decoded")
    return Decoded(samples, audio_rate, container)


def to_speech(samples: AudioArray, rate: int, *, name: object, allow_silence: bool = True) -> AudioArray:
    """`samples` (samples, channels) at `rate` Hz as 16 kHz mono (samples,); `name` is what errors call them."""
    if isinstance(rate, bool) or not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(name, "unreadable", f"is at {rate} Hz; {MIN_RATE} to {MAX_RATE} Hz are allowed")
    if samples.shape[1] > MAX_CHANNELS:
        raise AudioError(
            name,
            "unreadable",
            f"has {samples.shape[1]} channels; 1 to {MAX_CHANNELS}, in the last dimension, are allowed",
        )
    if not np.isfinite(samples).all():
        raise AudioError(name, "non-finite", "holds samples that are not finite numbers")
    audio = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    if rate != SAMPLE_RATE and audio.size:
        audio = soxr.resample(audio, rate, SAMPLE_RATE)
    if not audio.size:
        raise AudioError(name, "empty", "holds no samples")
    if not allow_silence and np.ptp(audio) <= 2 * SILENCE:
        raise AudioError(name, "silent", "holds nothing but silence")
    return np.ascontiguousarray(audio, dtype=np.float32)


def check_duration(audio: AudioArray, max_seconds: float, *, name: object) -> None:
    """`AudioError` with the reason `overlong` when 16 kHz `audio` lasts longer than `max_seconds`."""
    if audio.size > max_seconds * SAMPLE_RATE:
        raise _overlong(name, audio.size / SAMPLE_RATE, max_seconds)


def normalize(audio: AudioArray) -> AudioArray:
    """`audio` (samples,) with zero mean and unit variance, as fairseq's `task.normalize` gives it to large models."""
    wide = audio.astype(np.float64)
    # 1e-5 is the epsilon of the layer norm that fairseq applies to the waveform
    return ((wide - wide.mean()) / np.sqrt(wide.var() + 1e-5)).astype(np.float32)


def _overlong(name: object, seconds: float, max_seconds: float) -> AudioError:
    return AudioError(name, "overlong", f"lasts {seconds:.2f} s; at most {max_seconds:g} s are allowed")


def _array_samples(source: Any) -> AudioArray:
    """(samples, channels) float32 from an array-like of one or two dimensions."""
    try:
        array = np.asarray(source)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"audio array: cannot be read as an array: {error}") from None
    if array.ndim not in (1, 2):
        raise InputError(f"audio array: its shape is {array.shape}; it must be (samples,) or (samples, channels)")
    if array.dtype.name in _INTEGER_SCALES:
        middle, scale = _INTEGER_SCALES[array.dtype.name]
        array = (array.astype(np.float64) - middle) / scale
    elif array.size and array.dtype.kind != "f":
        raise InputError(f"audio array: its type is {array.dtype}; it must be floats, uint8, int16 or int32")
    with np.errstate(over="ignore"):  # too large for float32 is infinite, and refused as such
        return array.reshape(len(array), -1 if array.size else 1).astype(np.float32)


def _is_cut_short(file: BinaryIO) -> bool:
    """Whether the container in `file` says that more should follow: chunk lengths (WAV, AIFF), the last page (Ogg)."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    magic = file.read(4)
    if magic == b"OggS":
        file.seek(max(0, size - _MAX_OGG_PAGE))
        return not _ends_with_last_page(file.read())
    if magic not in (b"RIFF", b"RIFX", b"FORM"):
        return False
    header = struct.Struct("<4sI" if magic == b"RIFF" else ">4sI")
    position = 12
    while position + header.size <= size:
        file.seek(position)
        name, length = header.unpack(file.read(header.size))
        position += header.size + length
        if name in (b"data", b"SSND"):
            return position > size and length != _UNKNOWN_SIZE
        position += length % 2  # chunks start at even places
    return False


def _ends_with_last_page(tail: bytes) -> bool:
    """Whether the last Ogg page in `tail` is whole and marked as the end of its stream (RFC 3533, section 6)."""
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27:
        return False
    segments = page[27 : 27 + page[26]]
    return len(page) >= 27 + page[26] + sum(segments) and bool(page[5] & 0x04)
