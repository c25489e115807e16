"""Audio to text with a model file: what `w2v_compress.load` returns."""

import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, get_args, overload

import numpy as np
import torch
from torch import Tensor

from ..data.audio import SAMPLE_RATE, normalize, read_audio
from ..errors import InputError
from ..nn.acoustic_model import AcousticModel
from ..nn.architecture import Architecture
from ..nn.compression import CompressionPoint
from ..nn.feature_extractor import GroupNormStatistics
from . import Precision
from .decoding import greedy_ctc
from .model_file import Header, ModelFile, read_model

Audio = str | Path | np.ndarray | Tensor
Point = CompressionPoint | str
"""A point, or its text such as "2,1,1"."""

CHUNK_SECONDS = 30.0
CONTEXT_SECONDS = 2.0


@dataclass(frozen=True)
class Transcript:
    """What was heard in one piece of audio."""

    text: str
    log_probs: Tensor
    """(frames, units) float32 on the CPU"""
    audio_seconds: float
    compute_seconds: float
    """Its share, by length, of the time of the batches it was in; reading the audio not counted."""


@dataclass(frozen=True)
class Window:
    """A stretch of audio that the network sees at once, and which of its frames are kept."""

    samples: slice
    kept: slice


def plan_windows(
    architecture: Architecture, samples: int, chunk_seconds: float = CHUNK_SECONDS, squeeze: int = 1
) -> list[Window]:
    """Audio up to `chunk_seconds` long is one window. Longer audio is cut into equal ones that overlap.

    Frame k of the whole sees the same samples as the frame of the window that stands for it, and is squeezed together
    with the same frames: windows start at a multiple of `squeeze` frames. On each side of a seam
    the network sees `CONTEXT_SECONDS` more, whose frames are dropped; the positional convolution reaches less far.
    What lies further away cannot be attended to, so results differ slightly from those of a single pass, whose
    memory and time would grow with the square of the length.
    """
    hop, field = architecture.samples_per_frame, architecture.receptive_field
    frames = architecture.frames(samples)
    if samples <= chunk_seconds * SAMPLE_RATE:
        return [Window(slice(0, samples), slice(0, frames))]
    context = round(CONTEXT_SECONDS * SAMPLE_RATE / hop)
    longest = max(1, int(chunk_seconds * SAMPLE_RATE / hop) - 2 * context - (squeeze - 1))
    count = -(-frames // longest)
    bounds = [frames * index // count for index in range(count + 1)]
    windows = []
    for start, end in pairwise(bounds):
        first, last = max(0, start - context) // squeeze * squeeze, min(frames, end + context)
        windows.append(Window(slice(first * hop, (last - 1) * hop + field), slice(start - first, end - first)))
    return windows


class Recognizer:
    """A network with its units, ready to transcribe. `Recognizer.load` makes one from a model file."""

    def __init__(
        self, model: AcousticModel, header: Header, *, precision: str = "fp32", chunk_seconds: float = CHUNK_SECONDS
    ) -> None:
        self.model = model
        self.header = header
        self.precision = precision
        self.chunk_seconds = chunk_seconds
        """Longer audio is cut into overlapping windows, see `plan_windows`."""
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self._warned: set[CompressionPoint] = set()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        precision: Precision = "auto",
        device: str = "cpu",
        threads: int | None = None,
        group_norm_statistics: GroupNormStatistics = "valid",
    ) -> "Recognizer":
        """The recognizer in the model file `path`.

        precision: "auto" is what the file holds: int8 for a quantized one, else fp32. A floating-point file also
        runs in "bf16". `threads` sets torch's threads for the whole process. `group_norm_statistics`: see
        `nn.feature_extractor.FeatureExtractor`. Raises `InputError` when the file is not a model of ours or when
        an option does not suit it.
        """
        if threads is not None:
            if threads < 1:
                raise InputError(f"`threads` is {threads}; it must be at least 1")
            torch.set_num_threads(threads)
        model_file = read_model(Path(path))
        chosen = _precision(precision, model_file, path)
        place = _device(device)
        model = model_file.build(group_norm_statistics=group_norm_statistics)
        model = model.to(place, torch.bfloat16) if chosen == "bf16" else model.to(place)
        return cls(model, model_file.header, precision=chosen)

    def checked_point(self, point: Point | None = None, *, strict: bool = False) -> CompressionPoint:
        """The point to run at: `point`, or without one the header's.

        One that the model was not trained for gives a warning, the first time, or with `strict` an `InputError`; one
        that the network does not have is always an `InputError`.
        """
        chosen = self.header.point if point is None else point
        if isinstance(chosen, str):
            chosen = CompressionPoint.parse(chosen)
        self.model.w2v_model.encoder.pools_at(chosen)
        if chosen not in self.header.space:
            message = (
                f"the model was not trained for the compression point {chosen}; it was for {self.header.trained_points}"
            )
            if strict:
                raise InputError(message)
            if chosen not in self._warned:
                self._warned.add(chosen)
                warnings.warn(message, stacklevel=2)
        return chosen

    @overload
    def transcribe(
        self,
        audio: Audio,
        rate: int | None = None,
        *,
        batch_size: int = 8,
        point: Point | None = None,
        strict: bool = False,
    ) -> str: ...

    @overload
    def transcribe(
        self,
        audio: list[Any] | tuple[Any, ...],
        rate: int | None = None,
        *,
        batch_size: int = 8,
        point: Point | None = None,
        strict: bool = False,
    ) -> list[str]: ...

    def transcribe(
        self,
        audio: Audio | list[Any] | tuple[Any, ...],
        rate: int | None = None,
        *,
        batch_size: int = 8,
        point: Point | None = None,
        strict: bool = False,
    ) -> str | list[str]:
        """The text of a file, of an array of samples with its `rate` in Hz, or of a list of these.

        `point` and `strict` are those of `checked_point`. Raises `InputError` for the first audio that cannot be
        used; `recognize` tells the good from the bad.
        """
        if isinstance(audio, list | tuple):
            results = self.recognize(audio, rate, batch_size=batch_size, point=point, strict=strict)
            return [_unwrapped(result).text for result in results]
        return self._only(audio, rate, point, strict).text

    def emissions(
        self, audio: Audio, rate: int | None = None, *, point: Point | None = None, strict: bool = False
    ) -> Tensor:
        """Log-probabilities (frames, units), float32 on the CPU, at 50 Hz at every point; else as `transcribe`."""
        return self._only(audio, rate, point, strict).log_probs

    def recognize(
        self,
        audio: Iterable[Audio],
        rate: int | None = None,
        *,
        batch_size: int = 8,
        point: Point | None = None,
        strict: bool = False,
    ) -> Iterator[Transcript | InputError]:
        """A transcript for each, in order, or the reason why there is none; `point` as in `checked_point`.

        Audio is read as results are asked for. Batches hold up to `batch_size` pieces of like length.
        """
        if batch_size < 1:
            raise InputError(f"`batch_size` is {batch_size}; it must be at least 1")
        return self._recognize(iter(audio), rate, batch_size, self.checked_point(point, strict=strict))

    def _recognize(
        self, audio: Iterator[Audio], rate: int | None, batch_size: int, point: CompressionPoint
    ) -> Iterator[Transcript | InputError]:
        while group := list(islice(audio, 4 * batch_size)):
            yield from self._recognize_group([self._read(item, rate) for item in group], batch_size, point)

    def windows(self, samples: int, point: CompressionPoint) -> list[Window]:
        """What the network sees of audio of `samples` samples, see `plan_windows`."""
        return plan_windows(self.model.architecture, samples, self.chunk_seconds, point.squeeze)

    def _only(self, audio: Audio, rate: int | None, point: Point | None, strict: bool) -> Transcript:
        (result,) = self.recognize([audio], rate, point=point, strict=strict)
        return _unwrapped(result)

    def _read(self, audio: Audio, rate: int | None) -> np.ndarray | InputError:
        """Samples (time,) as the network wants them."""
        name = str(audio) if isinstance(audio, str | Path) else "audio"
        try:
            samples = read_audio(audio.numpy(force=True) if isinstance(audio, Tensor) else audio, rate)
        except InputError as error:
            return error
        if self.model.architecture.frames(len(samples)) == 0:
            shortest = 1000 * self.model.architecture.receptive_field / SAMPLE_RATE
            return InputError(
                f"{name}: too short: {1000 * len(samples) / SAMPLE_RATE:.0f} ms; it must be at least {shortest:.0f} ms"
            )
        return normalize(samples) if self.header.normalize else samples

    def _recognize_group(
        self, group: Sequence[np.ndarray | InputError], batch_size: int, point: CompressionPoint
    ) -> Iterator[Transcript | InputError]:
        windows = {
            (index, part): (samples[window.samples], window.kept)
            for index, samples in enumerate(group)
            if not isinstance(samples, InputError)
            for part, window in enumerate(self.windows(len(samples), point))
        }
        by_length = sorted(windows, key=lambda key: -len(windows[key][0]))
        pieces: dict[tuple[int, int], Tensor] = {}
        seconds = [0.0] * len(group)
        for start in range(0, len(by_length), batch_size):
            keys = by_length[start : start + batch_size]
            batch = [windows[key][0] for key in keys]
            began = time.perf_counter()
            log_probs = self._log_probs(batch, point)
            elapsed = (time.perf_counter() - began) / sum(map(len, batch))
            for key, samples, frames in zip(keys, batch, log_probs, strict=True):
                pieces[key] = frames[windows[key][1]]
                seconds[key[0]] += elapsed * len(samples)
        for index, item in enumerate(group):
            if isinstance(item, InputError):
                yield item
                continue
            whole = torch.cat([pieces[key] for key in windows if key[0] == index])
            text = self.header.units.decode(greedy_ctc(whole))
            yield Transcript(text, whole, len(item) / SAMPLE_RATE, seconds[index])

    @torch.inference_mode()
    def _log_probs(self, batch: Sequence[np.ndarray], point: CompressionPoint) -> list[Tensor]:
        """Waveforms (time,) of any lengths -> log-probabilities (frames, units) of each."""
        lengths = torch.tensor([len(samples) for samples in batch])
        padded = torch.zeros(len(batch), int(lengths.max()))
        for row, samples in zip(padded, batch, strict=True):
            row[: len(samples)] = torch.from_numpy(samples)
        mixed = len(set(lengths.tolist())) > 1
        valid = lengths.to(self.device) if mixed else None
        logits, frames = self.model(padded.to(self.device, self.dtype), valid, point)
        log_probs = logits.float().log_softmax(-1).cpu()
        return [row[:count] for row, count in zip(log_probs, frames.tolist(), strict=True)]


def _unwrapped(result: Transcript | InputError) -> Transcript:
    if isinstance(result, InputError):
        raise result
    return result


def _precision(precision: str, model_file: ModelFile, path: str | Path) -> str:
    quantized = model_file.header.quantization is not None
    if precision not in get_args(Precision):
        raise InputError(f"precision {precision!r} is not known; it must be one of {', '.join(get_args(Precision))}")
    if precision == "auto":
        return "int8" if quantized else "fp32"
    if precision == "int8" and not quantized:
        raise InputError(f"{path}: not an int8 model: make one with `w2v-compress quantize`")
    if precision != "int8" and quantized:
        raise InputError(f"{path}: an int8 model; its precision must be int8 or auto, not {precision}")
    return precision


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is not known; it must be cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name!r} is not there; this machine has {torch.cuda.device_count()} CUDA devices")
    return device
