"""Transcribe audio with a model file: the recognizer that `w2v_compress.load` returns."""

import math
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args, overload

import numpy as np
import torch
from torch import Tensor

from ..data.audio import SAMPLE_RATE
from ..errors import InputError
from ..model_file.header import Header
from ..model_file.points import Point, resolve_point, untrained_warning
from ..model_file.storage import ModelFile, read_model
from ..nn.acoustic_model import AcousticModel
from ..nn.compression import CompressionPoint
from ..nn.device import half_precision
from ..nn.feature_extractor import GroupNormStatistics
from .batching import batches, look_ahead
from .decoding import Decoder, GreedyDecoder, Word
from .optimize import optimize_for_inference
from .precision import Precision
from .stream import Audio, AudioStream, Recording, Segment
from .threads import set_threads
from .windows import CHUNK_SECONDS, Window, plan_windows


@dataclass(frozen=True)
class Transcript:
    """The transcript of one recording."""

    text: str
    words: tuple[Word, ...]
    """The words of `text`, with their times."""
    log_probs: Tensor
    """Log-probabilities, `(frames, units)`, float32 on the CPU."""
    audio_seconds: float
    compute_seconds: float
    """Batch time prorated by length, plus decoding; excludes audio I/O."""


class Recognizer:
    """Transcribe audio with a network and its units; `Recognizer.load` creates one from a model file."""

    def __init__(
        self, model: AcousticModel, header: Header, *, precision: str = "fp32", chunk_seconds: float = CHUNK_SECONDS
    ) -> None:
        self.model = model
        self.header = header
        self.precision = precision
        self.chunk_seconds = chunk_seconds
        """Longest window in seconds; longer audio is cut into overlapping windows, see `plan_windows`."""
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.batch_seconds = CHUNK_SECONDS if self.device.type == "cpu" else math.inf
        """Longest batch in seconds, including padding. A CPU is no faster with more, which would only take memory."""
        self.decoder: Decoder = GreedyDecoder(header.units, header.seconds_per_frame)
        """Decoder of log-probabilities; assign another one to replace greedy decoding."""
        self._warned: set[object] = set()

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
        """Load the model file `path`.

        Args:
            path: a model file of this project
            precision: "auto" is int8 for a quantized file, else bf16 if the device has units for it (a CPU with
                AVX512-BF16 or AMX, a GPU from Ampere on), else fp32
            device: "cpu", "cuda" or "cuda:N"
            threads: number of threads for the whole process, see `runtime.threads.set_threads`
            group_norm_statistics: how batches are normalized, see `nn.feature_extractor.FeatureExtractor`

        Raises `InputError` if the file is not a model file of this project, or an option does not suit it.
        """
        set_threads(threads)
        model_file = read_model(Path(path))
        resolved_device = _resolve_device(device)
        resolved_precision = _resolve_precision(precision, model_file, path, resolved_device)
        model = model_file.build(group_norm_statistics=group_norm_statistics)
        model = model.to(resolved_device, torch.bfloat16 if resolved_precision == "bf16" else None)
        optimize_for_inference(model)
        return cls(model, model_file.header, precision=resolved_precision)

    def checked_point(self, point: Point | None = None, *, strict: bool = False) -> CompressionPoint:
        """Return the compression point to run at: `point`, or the header's default point if it is None.

        A point that the model was not trained for gives a warning the first time; with `strict` it raises `InputError`.
        A point that the network does not have always raises `InputError`.
        """
        chosen = resolve_point(self.model, self.header, point, strict=strict)
        message = untrained_warning(self.header, chosen)
        if message is not None:
            self._warn_once(chosen, message)
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
        """Transcribe a file (path, bytes or binary file object), an array of samples at `rate` Hz, or a list of these.

        Returns the text, or one text per item of the list. `point` and `strict` are passed to `checked_point`. Raises
        `InputError` for the first recording that is rejected; `recognize` yields the errors instead.
        """
        if isinstance(audio, list | tuple):
            results = self.recognize(audio, rate, batch_size=batch_size, point=point, strict=strict)
            return [_raise_error(result).text for result in results]
        return self._transcribe_one(audio, rate, point, strict).text

    def emissions(
        self, audio: Audio, rate: int | None = None, *, point: Point | None = None, strict: bool = False
    ) -> Tensor:
        """Return log-probabilities `(frames, units)`, float32 on the CPU, at 50 Hz at every compression point.

        Arguments and errors are those of `transcribe`.
        """
        return self._transcribe_one(audio, rate, point, strict).log_probs

    def recognize(
        self,
        audio: Iterable[Audio],
        rate: int | None = None,
        *,
        batch_size: int = 8,
        point: Point | None = None,
        strict: bool = False,
    ) -> Iterator[Transcript | InputError]:
        """Yield for each recording, in order, its transcript or the error that rejected it.

        Audio is read as results are asked for, little more than five minutes ahead. Long files are streamed window by
        window and read twice: first to find their length, their level and their faults. A batch has up to `batch_size`
        windows of similar length and up to `batch_seconds`. Audio at other rates than 16 kHz is resampled, with a
        warning the first time. `point` and `strict` are passed to `checked_point`.
        """
        if batch_size < 1:
            raise InputError(f"`batch_size` is {batch_size}; it must be at least 1")
        return self._recognize(iter(audio), rate, batch_size, self.checked_point(point, strict=strict))

    def windows(self, samples: int, point: CompressionPoint) -> list[Window]:
        """Return the windows in which the network processes audio of `samples` samples, see `plan_windows`."""
        return plan_windows(self.model.architecture, samples, self.chunk_seconds, point)

    def _recognize(
        self, audio: Iterator[Audio], rate: int | None, batch_size: int, point: CompressionPoint
    ) -> Iterator[Transcript | InputError]:
        stream = AudioStream(
            audio,
            rate,
            self.header,
            point,
            chunk_seconds=self.chunk_seconds,
            on_resampling=partial(self._warn_once, "resampling"),
        )
        for group in look_ahead(stream, batch_size):
            valid = [segment for segment in group if segment.recording.error is None]
            for batch in batches(valid, batch_size, self.batch_seconds):
                self._run(batch, point)
            for recording in stream.completed():
                yield recording.error or self._decode(recording)

    def _run(self, batch: Sequence[Segment], point: CompressionPoint) -> None:
        """Store in each segment its log-probabilities and its share of the batch time, prorated by length."""
        start = time.perf_counter()
        results = self._log_probs([segment.samples for segment in batch], point)
        seconds_per_sample = (time.perf_counter() - start) / sum(len(segment.samples) for segment in batch)
        for segment, log_probs in zip(batch, results, strict=True):
            segment.store(log_probs, seconds_per_sample * len(segment.samples))

    @torch.inference_mode()
    def _log_probs(self, batch: Sequence[np.ndarray], point: CompressionPoint) -> list[Tensor]:
        """Compute log-probabilities (frames, units) of each waveform (samples,); lengths may differ."""
        lengths = torch.tensor([len(samples) for samples in batch])
        padded = torch.zeros(len(batch), int(lengths.max()))
        for row, samples in zip(padded, batch, strict=True):
            row[: len(samples)] = torch.from_numpy(samples)
        mixed = len(set(lengths.tolist())) > 1
        valid_lengths = lengths.to(self.device) if mixed else None
        logits, frames = self.model(padded.to(self.device, self.dtype), valid_lengths, point)
        log_probs = logits.float().log_softmax(-1).cpu()
        return [row[:count] for row, count in zip(log_probs, frames.tolist(), strict=True)]

    def _decode(self, recording: Recording) -> Transcript:
        start = time.perf_counter()
        decoded = self.decoder(recording.log_probs)
        compute_seconds = recording.compute_seconds + time.perf_counter() - start
        audio_seconds = recording.samples / SAMPLE_RATE
        return Transcript(decoded.text, decoded.words, recording.log_probs, audio_seconds, compute_seconds)

    def _transcribe_one(self, audio: Audio, rate: int | None, point: Point | None, strict: bool) -> Transcript:
        (result,) = self.recognize([audio], rate, point=point, strict=strict)
        return _raise_error(result)

    def _warn_once(self, key: object, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(message, stacklevel=3)


def _raise_error(result: Transcript | InputError) -> Transcript:
    """Return a transcript as it is; raise an error."""
    if isinstance(result, InputError):
        raise result
    return result


def _resolve_precision(precision: str, model_file: ModelFile, path: str | Path, device: torch.device) -> str:
    quantized = model_file.header.quantization is not None
    if precision not in get_args(Precision):
        raise InputError(f"precision {precision!r} is unknown; it must be one of {', '.join(get_args(Precision))}")
    if precision == "auto":
        return "int8" if quantized else "bf16" if half_precision(device) == torch.bfloat16 else "fp32"
    if precision == "int8" and not quantized:
        raise InputError(f"{path}: not an int8 model: create one with `w2v-compress quantize`")
    if precision != "int8" and quantized:
        raise InputError(f"{path}: an int8 model; its precision must be int8 or auto, not {precision}")
    return precision


def _resolve_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is unknown; it must be cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name!r} does not exist; this machine has {torch.cuda.device_count()} CUDA devices")
    return device
