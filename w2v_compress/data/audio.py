"""Read files and arrays as 16 kHz mono float32. Invalid audio is rejected with a reason."""

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
from .truncation import check_not_truncated

SAMPLE_RATE = 16_000
"""Sampling rate, in Hz, of the input of every network."""
MIN_RATE, MAX_RATE = 4_000, 384_000
"""Lowest and highest sampling rate, in Hz, that is accepted."""
MAX_CHANNELS = 64
"""More channels are taken for an array of shape (channels, samples)."""
LENGTH_TOLERANCE = 0.1
"""Difference in seconds that is allowed between a file and its length in a manifest."""
BLOCK_VALUES = 2**18
"""Values (samples x channels) in each block of streamed audio."""
SILENCE = 2.0**-14
"""Amplitude around the midpoint below which audio counts as silent: two 16-bit steps, -84 dBFS."""

AudioArray = npt.NDArray[np.float32]
ARRAY_NAME = "audio array"
"""Name of arrays in error messages."""
STREAM_NAME = "audio stream"
"""Name of bytes and unnamed file objects in error messages."""

_UNKNOWN_FRAMES = 2**60  # libsndfile reports a larger count when the header has none
_INTEGER_SCALES = {"uint8": (128, 128.0), "int16": (0, 2.0**15), "int32": (0, 2.0**31)}  # dtype -> (zero, full scale)


@dataclass(frozen=True)
class DecodedAudio:
    """The decoded content of an audio file, before resampling and mixing."""

    samples: AudioArray
    """Samples as (samples, channels)."""
    rate: int
    """Sampling rate in Hz."""
    container: str
    """libsndfile's name of the container: WAV, FLAC, OGG (Opus and Vorbis), ..."""


@dataclass(frozen=True)
class AudioSource:
    """Audio that can be streamed any number of times, in memory that does not grow with its length."""

    name: object
    """Name of the audio in error messages."""
    rate: int
    """Sampling rate of the stored audio in Hz."""
    stored: Callable[[], Iterator[AudioArray]]
    """Function that streams the stored audio as blocks (samples, channels)."""

    def blocks(self) -> Iterator[AudioArray]:
        """Stream 16 kHz mono blocks (samples,), which concatenate to the result of `read_audio`.

        Raises the errors of `read_audio`, at the block that causes them.
        """
        return _convert_blocks(self.stored(), self.rate, self.name)


def open_audio(source: Any, rate: int | None = None) -> AudioSource:
    """Open `source` for streaming; arguments and errors are those of `read_audio`.

    An array is not copied, so it must not change before it has been read.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        source = io.BytesIO(source)
    if isinstance(source, str | os.PathLike) or hasattr(source, "read"):
        name, file = _seekable_file(source)
        if rate is not None:
            raise InputError(f"{name}: `rate` goes with an array only; a file has its own")
        with _opened(file, name) as audio:
            rate = audio.samplerate
        _check_rate(rate, name)
        return AudioSource(name, rate, partial(_file_blocks, file, name))
    if rate is None:
        raise InputError(f"{ARRAY_NAME}: `rate`, the sampling rate in Hz, is required")
    array = _checked_array(source)
    _check_rate(rate, ARRAY_NAME)
    return AudioSource(ARRAY_NAME, rate, partial(_array_blocks, array))


def read_audio(source: Any, rate: int | None = None, *, allow_silence: bool = True) -> AudioArray:
    """Read `source` as 16 kHz mono audio (samples,).

    `source` is a path, the bytes of a file, a binary file object, or an array of shape (samples,) or (samples,
    channels) with its sampling `rate` in Hz: floats in [-1, 1], or uint8, int16 or int32 samples. Channels are
    averaged, and other rates are resampled by soxr.
    Raises `AudioError`, an `InputError`, for a file that is missing, not audio, damaged or truncated, and for audio
    that has no samples, has samples that are not finite or, unless `allow_silence`, is silent.
    """
    opened = open_audio(source, rate)
    return _concatenate(opened.blocks(), opened.name, allow_silence)


def decode_file(path: Path, *, max_seconds: float | None = None) -> DecodedAudio:
    """Decode all samples of the audio file at `path`.

    Truncated WAV, AIFF and Ogg files, which libsndfile reads without an error, are rejected. Raises `AudioError` with
    the reason `missing`, `unreadable`, `empty`, or, before decoding, `overlong` for more than `max_seconds`.
    """
    with _opened(path, path) as file:
        if max_seconds is not None and file.frames > max_seconds * file.samplerate:
            raise _overlong(path, file.frames / file.samplerate, max_seconds)
        blocks = [np.zeros((0, file.channels), np.float32), *_decoded_blocks(file, path)]
        return DecodedAudio(np.concatenate(blocks), file.samplerate, file.format)


def read_unconverted(
    file: Path | BinaryIO, *, name: object, rate: int = SAMPLE_RATE, samples: int | None = None
) -> AudioArray:
    """Read mono audio (samples,) at `rate` Hz as it is stored, for training, where nothing is converted.

    Args:
        file: The file, or its content as a file object.
        name: Its name in error messages.
        rate: Required sampling rate in Hz.
        samples: Expected length; more than `LENGTH_TOLERANCE` s more or fewer samples are an error.

    Raises:
        AudioError: The file is missing, unreadable or empty, or the audio has another rate, several channels, another
            length or samples that are not finite. Only the last is found after decoding.
    """
    with _opened(file, name) as audio:
        if audio.samplerate != rate:
            raise AudioError(name, "wrong rate", f"is at {audio.samplerate} Hz; it must be at {rate} Hz")
        if audio.channels != 1:
            raise AudioError(name, "several channels", f"has {audio.channels} channels; it must have one")
        if not audio.frames:
            raise AudioError(name, "empty", "holds no samples")
        if samples is not None and abs(audio.frames - samples) > LENGTH_TOLERANCE * rate:
            detail = (
                f"has {audio.frames} samples, but {samples} in the manifest; they may differ by {LENGTH_TOLERANCE} s"
            )
            raise AudioError(name, "wrong length", detail)
        decoded = np.concatenate(list(_decoded_blocks(audio, name)))[:, 0]
    if not np.isfinite(decoded).all():
        raise AudioError(name, "non-finite", "has samples that are not finite numbers")
    return decoded


def to_mono_16khz(samples: AudioArray, rate: int, *, name: object, allow_silence: bool = True) -> AudioArray:
    """Convert `samples` (samples, channels) at `rate` Hz to 16 kHz mono (samples,); errors start with `name`."""
    _check_rate(rate, name)
    return _concatenate(_convert_blocks(iter([samples]), rate, name), name, allow_silence)


def check_duration(audio: AudioArray, max_seconds: float, *, name: object) -> None:
    """Raise `AudioError` with the reason `overlong` if 16 kHz `audio` lasts longer than `max_seconds`."""
    if audio.size > max_seconds * SAMPLE_RATE:
        raise _overlong(name, audio.size / SAMPLE_RATE, max_seconds)


def _overlong(name: object, seconds: float, max_seconds: float) -> AudioError:
    return AudioError(name, "overlong", f"lasts {seconds:.2f} s; at most {max_seconds:g} s are allowed")


class _SequentialFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """A sound file that soundfile does not seek in: a seek after each read resets the state of the MP3 decoder."""

    def seekable(self) -> bool:
        """Return False, so that soundfile does not seek."""
        return False


def _seekable_file(source: Any) -> tuple[object, Path | BinaryIO]:
    """Return the name of a path or file object in error messages, and a path or file object that can be rewound.

    A file object that cannot seek, such as a pipe, is first copied to a temporary file.
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
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - removed once nothing refers to it
        shutil.copyfileobj(source, copy)
    except (OSError, ValueError) as error:
        raise AudioError(name, "unreadable", f"cannot be read: {error}") from None
    return name, copy


@contextmanager
def _opened(file: Path | BinaryIO, name: object) -> Iterator[soundfile.SoundFile]:
    """Open a file at its beginning, and turn any error from opening or reading it into an `AudioError`."""
    try:
        if isinstance(file, Path):
            if not file.exists():
                raise AudioError(name, "missing", "no such file")
            if not file.is_file():
                raise AudioError(name, "unreadable", "is not a file")
            with file.open("rb") as stream:
                check_not_truncated(stream, name)
        else:
            check_not_truncated(file, name)
        with _SequentialFile(file) as audio:
            if audio.channels > MAX_CHANNELS:
                raise AudioError(name, "unreadable", _too_many(audio.channels))
            if audio.frames > _UNKNOWN_FRAMES:
                raise AudioError(name, "unreadable", "its header gives no length (written to a pipe?): re-encode it")
            yield audio
    except OSError as error:
        raise AudioError(name, "unreadable", f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise AudioError(name, "unreadable", f"cannot be read: {error}") from None  # from a closed file object
    except (soundfile.SoundFileError, TypeError, MemoryError):  # soundfile raises TypeError for the suffix .raw
        raise AudioError(
            name, "unreadable", "is damaged, cut short, or not audio (such as wav, flac, ogg or opus)"
        ) from None


def _too_many(channels: int) -> str:
    return f"has {channels} channels; 1 to {MAX_CHANNELS} are allowed"


def _decoded_blocks(file: soundfile.SoundFile, path: object) -> Iterator[AudioArray]:
    """Decode `file` as blocks (samples, channels) float32; raise `AudioError` if it ends before its header says."""
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
    """Convert an array-like of one or two dimensions to (samples, channels), and check its type."""
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
    """Convert the result of `_checked_array` to blocks (samples, channels) float32, scaled to [-1, 1]."""
    zero, scale = _INTEGER_SCALES.get(array.dtype.name, (0, 1.0))
    samples = max(1, BLOCK_VALUES // max(1, array.shape[1]))
    for start in range(0, len(array) if array.size else 0, samples):
        block = array[start : start + samples]
        if scale != 1:
            block = (block.astype(np.float64) - zero) / scale
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, and are rejected later
            block = block.astype(np.float32, copy=False)
        yield block


def _check_rate(rate: Any, name: object) -> None:
    if isinstance(rate, bool) or not isinstance(rate, Real) or not MIN_RATE <= float(rate) <= MAX_RATE:
        raise AudioError(name, "unreadable", f"is at {rate} Hz; {MIN_RATE} to {MAX_RATE} Hz are allowed")


def _convert_blocks(blocks: Iterator[AudioArray], rate: int, name: object) -> Iterator[AudioArray]:
    """Convert blocks (samples, channels) at `rate` Hz to 16 kHz mono (samples,); the block size does not matter."""
    resampler = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1)
    produced = 0
    for block in blocks:
        channels = block.shape[1]
        if channels > MAX_CHANNELS:
            raise AudioError(name, "unreadable", f"{_too_many(channels)}, in the last dimension")
        if not np.isfinite(block).all():
            raise AudioError(name, "non-finite", "has samples that are not finite numbers")
        audio = block[:, 0] if channels == 1 else block.mean(axis=1, dtype=np.float32)
        if resampler is not None:
            audio = resampler.resample_chunk(np.asarray(audio))
        produced += audio.size
        yield audio
    if resampler is not None:
        rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        produced += rest.size
        yield rest
    if not produced:
        raise AudioError(name, "empty", "holds no samples")


def _concatenate(blocks: Iterator[AudioArray], name: object, allow_silence: bool) -> AudioArray:
    audio = np.concatenate(list(blocks))
    if not allow_silence and np.ptp(audio) <= 2 * SILENCE:
        raise AudioError(name, "silent", "holds nothing but silence")
    return audio
