"""Speech from files and arrays, as 16 kHz mono float32; whatever is not sound audio is refused with the reason."""

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from ..errors import AudioError, InputError
from .truncation import check_whole

SAMPLE_RATE = 16_000
"""Samples a second of everything that the networks hear."""
MIN_RATE, MAX_RATE = 4_000, 384_000
"""Sampling rates, in Hz, that are resampled; others are taken for a mistake."""
MAX_CHANNELS = 64
BLOCK_VALUES = 2**18
"""Samples, those of all channels counted, that are held at a time where audio is streamed."""
SILENCE = 2.0**-14
"""Audio that stays this close to its middle (two steps of 16 bits, -84 dBFS) is silent."""

AudioArray = npt.NDArray[np.float32]
ARRAY_NAME = "audio array"
STREAM_NAME = "audio stream"
"""What errors call audio that has no name."""

_UNKNOWN_FRAMES = 2**60
_INTEGER_SCALES = {"uint8": (128, 128.0), "int16": (0, 2.0**15), "int32": (0, 2.0**31)}


@dataclass(frozen=True)
class Decoded:
    """What an audio file holds, as it holds it."""

    samples: AudioArray
    """(samples, channels)"""
    rate: int
    """Samples a second."""
    container: str
    """libsndfile's name of the format: WAV, FLAC, OGG (Opus and Vorbis), ..."""


@dataclass(frozen=True)
class AudioSource:
    """Sound that can be read block by block, any number of times, so that its length takes no memory."""

    name: object
    """What errors call it."""
    rate: int
    """Samples a second of what is stored."""
    stored: Callable[[], Iterator[AudioArray]]
    """Gives it as it is stored, block by block: (samples, channels)."""

    def blocks(self) -> Iterator[AudioArray]:
        """16 kHz mono, (samples,) a block: joined, what `read_audio` gives. Errors are its errors, and come where
        the fault is.
        """
        return _speech(self.stored(), self.rate, self.name)


def open_audio(source: Any, rate: int | None = None) -> AudioSource:
    """The speech in `source`, which is not read yet; arguments and errors are those of `read_audio`.

    An array is not copied: it must stay as it is until it has been read.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        source = io.BytesIO(source)
    if isinstance(source, str | os.PathLike) or hasattr(source, "read"):
        name, file = _file(source)
        if rate is not None:
            raise InputError(f"{name}: `rate` goes with an array only; a file states its own")
        with _opened(file, name) as audio:
            rate = audio.samplerate
        _check_rate(rate, name)
        return AudioSource(name, rate, partial(_file_blocks, file, name))
    if rate is None:
        raise InputError(f"{ARRAY_NAME}: `rate`, its samples a second, is needed")
    array = _checked_array(source)
    _check_rate(rate, ARRAY_NAME)
    return AudioSource(ARRAY_NAME, rate, partial(_array_blocks, array))


def read_audio(source: Any, rate: int | None = None, *, allow_silence: bool = True) -> AudioArray:
    """The speech in `source` as 16 kHz mono, shape (samples,).

    `source` is a path, the bytes of a file, a binary file object, or an array of shape (samples,) or (samples,
    channels) with its sampling `rate` in Hz: floats in [-1, 1], or uint8, int16 or int32 samples. Channels are
    averaged; other rates are resampled by soxr.
    Raises `AudioError`, an `InputError`, when a file is missing, not audio, damaged or cut short, and when there are
    no samples, samples that are not finite or, unless `allow_silence`, nothing but silence.
    """
    opened = open_audio(source, rate)
    return _joined(opened.blocks(), opened.name, allow_silence)


def decode_file(path: Path, *, max_seconds: float | None = None) -> Decoded:
    """The samples of the audio file at `path`, every one that its header promises.

    libsndfile quietly reads what is left of a WAV, AIFF or Ogg file that was cut short; this refuses it. Raises
    `AudioError` with the reason `missing`, `unreadable`, `empty`, or `overlong` (before decoding) for more than
    `max_seconds`.
    """
    with _opened(path, path) as file:
        if max_seconds is not None and file.frames > max_seconds * file.samplerate:
            raise _overlong(path, file.frames / file.samplerate, max_seconds)
        blocks = [np.zeros((0, file.channels), np.float32), *_decoded_blocks(file, path)]
        return Decoded(np.concatenate(blocks), file.samplerate, file.format)


def to_speech(samples: AudioArray, rate: int, *, name: object, allow_silence: bool = True) -> AudioArray:
    """`samples` (samples, channels) at `rate` Hz as 16 kHz mono (samples,); `name` is what errors call them."""
    _check_rate(rate, name)
    return _joined(_speech(iter([samples]), rate, name), name, allow_silence)


def check_duration(audio: AudioArray, max_seconds: float, *, name: object) -> None:
    """`AudioError` with the reason `overlong` when 16 kHz `audio` lasts longer than `max_seconds`."""
    if audio.size > max_seconds * SAMPLE_RATE:
        raise _overlong(name, audio.size / SAMPLE_RATE, max_seconds)


def _overlong(name: object, seconds: float, max_seconds: float) -> AudioError:
    return AudioError(name, "overlong", f"lasts {seconds:.2f} s; at most {max_seconds:g} s are allowed")


class _SequentialFile(soundfile.SoundFile):
    """soundfile seeks after each read, by which the decoder of MP3 loses what it knows of the samples to come."""

    def seekable(self) -> bool:
        """No, although libsndfile could."""
        return False


def _file(source: Any) -> tuple[object, Path | BinaryIO]:
    """What errors call a path or a file object, and what can be read from its beginning any number of times.

    What cannot be sought in, as a pipe, is first copied to a temporary file.
    """
    if isinstance(source, str | os.PathLike):
        return source, Path(source)
    named = getattr(source, "name", None)
    name = named if isinstance(named, str) else STREAM_NAME
    if isinstance(source, io.TextIOBase):
        raise InputError(f"{name}: was opened as text; audio must be opened as binary, as by open(path, 'rb')")
    try:
        if source.seekable():
            return name, source
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - it goes when nothing reads it any more
        shutil.copyfileobj(source, copy)
    except (OSError, ValueError) as error:
        raise AudioError(name, "unreadable", f"cannot be read: {error}") from None
    return name, copy


@contextmanager
def _opened(file: Path | BinaryIO, name: object) -> Iterator[soundfile.SoundFile]:
    """A file, from its beginning; whatever goes wrong with it, here or as it is read, is an `AudioError`."""
    try:
        if isinstance(file, Path):
            if not file.exists():
                raise AudioError(name, "missing", "no such file")
            if not file.is_file():
                raise AudioError(name, "unreadable", "is not a file")
            with file.open("rb") as stream:
                check_whole(stream, name)
        else:
            check_whole(file, name)
        with _SequentialFile(file) as audio:
            if audio.frames > _UNKNOWN_FRAMES:
                raise AudioError(name, "unreadable", "does not say how long it is (written to a pipe?): re-encode it")
            yield audio
    except OSError as error:
        raise AudioError(name, "unreadable", f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise AudioError(name, "unreadable", f"cannot be read: {error}") from None  # a file object that was closed
    except (soundfile.SoundFileError, TypeError, MemoryError):  # TypeError: soundfile on the suffix .raw
        raise AudioError(
            name, "unreadable", "is damaged, cut short, or not audio (wav, flac, ogg, opus and others are)"
        ) from None


def _decoded_blocks(file: soundfile.SoundFile, path: object) -> Iterator[AudioArray]:
    """(samples, channels) float32, every sample that the header promises."""
    decoded, at_once = 0, max(1, BLOCK_VALUES // file.channels)
    while len(block := file.read(at_once, dtype="float32", always_2d=True)):
        decoded += len(block)
        yield block
    if decoded < file.frames:
        raise AudioError(path, "unreadable", f"is cut short: {decoded} of {file.frames} samples can be decoded")


def _file_blocks(file: Path | BinaryIO, name: object) -> Iterator[AudioArray]:
    with _opened(file, name) as audio:
        yield from _decoded_blocks(audio, name)


def _checked_array(source: Any) -> npt.NDArray[Any]:
    """(samples, channels) of a type that can be scaled, from an array-like of one or two dimensions."""
    try:
        array = np.asarray(source)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{ARRAY_NAME}: cannot be read as an array: {error}") from None
    if array.ndim not in (1, 2):
        raise InputError(f"{ARRAY_NAME}: its shape is {array.shape}; it must be (samples,) or (samples, channels)")
    if array.size and array.dtype.name not in _INTEGER_SCALES and array.dtype.kind != "f":
        raise InputError(f"{ARRAY_NAME}: its type is {array.dtype}; it must be floats, uint8, int16 or int32")
    return array if array.ndim == 2 else array[:, np.newaxis]


def _array_blocks(array: npt.NDArray[Any]) -> Iterator[AudioArray]:
    """(samples, channels) float32 from what `_checked_array` gives."""
    middle, scale = _INTEGER_SCALES.get(array.dtype.name, (0, 1.0))
    samples = max(1, BLOCK_VALUES // max(1, array.shape[1]))
    for start in range(0, len(array) if array.size else 0, samples):
        block = array[start : start + samples]
        if scale != 1:
            block = (block.astype(np.float64) - middle) / scale
        with np.errstate(over="ignore"):  # too large for float32 is infinite, and refused as such
            block = block.astype(np.float32, copy=False)
        yield block


def _check_rate(rate: Any, name: object) -> None:
    if isinstance(rate, bool) or not isinstance(rate, Real) or not MIN_RATE <= float(rate) <= MAX_RATE:
        raise AudioError(name, "unreadable", f"is at {rate} Hz; {MIN_RATE} to {MAX_RATE} Hz are allowed")


def _speech(blocks: Iterator[AudioArray], rate: int, name: object) -> Iterator[AudioArray]:
    """Blocks (samples, channels) at `rate` Hz as 16 kHz mono (samples,), the same however the audio is cut up."""
    resampler = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1)
    heard = 0
    for block in blocks:
        channels = block.shape[1]
        if channels > MAX_CHANNELS:
            detail = f"has {channels} channels; 1 to {MAX_CHANNELS}, in the last dimension, are allowed"
            raise AudioError(name, "unreadable", detail)
        if not np.isfinite(block).all():
            raise AudioError(name, "non-finite", "holds samples that are not finite numbers")
        audio = block[:, 0] if channels == 1 else block.mean(axis=1, dtype=np.float32)
        if resampler is not None:
            audio = resampler.resample_chunk(np.asarray(audio))
        heard += audio.size
        yield audio
    if resampler is not None:
        rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        heard += rest.size
        yield rest
    if not heard:
        raise AudioError(name, "empty", "holds no samples")


def _joined(blocks: Iterator[AudioArray], name: object, allow_silence: bool) -> AudioArray:
    audio = np.concatenate(list(blocks))
    if not allow_silence and np.ptp(audio) <= 2 * SILENCE:
        raise AudioError(name, "silent", "holds nothing but silence")
    return audio
