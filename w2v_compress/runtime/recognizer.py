"""Audio to text with a model file: what `w2v_compress.load` returns."""

import math
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, get_args, overload

import numpy as np
import torch
from torch import Tensor

from ..data.audio import SAMPLE_RATE, AudioArray, AudioSource, open_audio
from ..data.normalization import Moments
from ..errors import AudioError, InputError
from ..model_file.header import Header
from ..model_file.points import Point, resolve_point, untrained
from ..model_file.storage import ModelFile, read_model
from ..nn.acoustic_model import AcousticModel
from ..nn.compression import CompressionPoint
from ..nn.device import half_precision
from ..nn.feature_extractor import GroupNormStatistics
from .batching import Assembly, Piece, batches, look_ahead
from .decoding import Decoder, GreedyDecoder, Word
from .optimize import prepare
from .precision import Precision
from .threads import set_threads
from .windows import CHUNK_SECONDS, Window, plan_windows, read_windows

Audio = str | Path | bytes | BinaryIO | np.ndarray | Tensor
"""A file by its path, its bytes or a binary file object; or samples."""


@dataclass(frozen=True)
class Transcript:
    """What was heard in one piece of audio."""

    text: str
    words: tuple[Word, ...]
    """The words of `text`, with their times."""
    log_probs: Tensor
    """(frames, units) float32 on the CPU"""
    audio_seconds: float
    compute_seconds: float
    """Its share, by length, of the time of the batches it was in, and its decoding; reading the audio not counted."""


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
        self.batch_seconds = CHUNK_SECONDS if self.device.type == "cpu" else math.inf
        """Audio in a batch, padding counted. A processor is busy with `CHUNK_SECONDS`: more would only take memory."""
        self.decoder: Decoder = GreedyDecoder(header.units, header.seconds_per_frame)
        """From log-probabilities to words; another one may take its place."""
        self._warned: set[CompressionPoint] = set()
        self._said_resampled = False

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

        precision: "auto" is int8 for a quantized file, else bf16 where the device has units for it (a processor with
        AVX512-BF16 or AMX, a GPU from Ampere on), else fp32. `threads` is for the whole process, see
        `runtime.threads.set_threads`; `group_norm_statistics` is for batches, see
        `nn.feature_extractor.FeatureExtractor`. Raises `InputError` when the file is not a model of ours or when an
        option does not suit it.
        """
        set_threads(threads)
        model_file = read_model(Path(path))
        place = _device(device)
        chosen = _precision(precision, model_file, path, place)
        model = model_file.build(group_norm_statistics=group_norm_statistics)
        model = model.to(place, torch.bfloat16) if chosen == "bf16" else model.to(place)
        prepare(model)
        return cls(model, model_file.header, precision=chosen)

    def checked_point(self, point: Point | None = None, *, strict: bool = False) -> CompressionPoint:
        """The point to run at: `point`, or without one the header's.

        One that the model was not trained for gives a warning, the first time, or with `strict` an `InputError`; one
        that the network does not have is always an `InputError`.
        """
        chosen = resolve_point(self.model, self.header, point, strict=strict)
        message = untrained(self.header, chosen)
        if message is not None and chosen not in self._warned:
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
        """The text of a file (a path, bytes, a binary file object), of samples with their `rate` in Hz, or of a list of
        these.

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

        Audio is read as results are asked for, little more than five minutes ahead, and of long files only what is
        needed at a time: they are read twice, first for their length, their level and their faults. Batches hold up to
        `batch_size` windows of like length and up to `batch_seconds`. Audio at other rates than 16 kHz is resampled,
        with a warning for the first.
        """
        if batch_size < 1:
            raise InputError(f"`batch_size` is {batch_size}; it must be at least 1")
        return self._recognize(iter(audio), rate, batch_size, self.checked_point(point, strict=strict))

    def _recognize(
        self, audio: Iterator[Audio], rate: int | None, batch_size: int, point: CompressionPoint
    ) -> Iterator[Transcript | InputError]:
        begun: deque[Assembly] = deque()
        for group in look_ahead(self._pieces(audio, rate, point, begun), batch_size):
            sound = [piece for piece in group if piece.whole.error is None]
            for batch in batches(sound, batch_size, self.batch_seconds):
                self._run(batch, point)
            while begun and begun[0].complete:
                yield self._result(begun.popleft())

    def _pieces(
        self, audio: Iterator[Audio], rate: int | None, point: CompressionPoint, begun: deque[Assembly]
    ) -> Iterator[Piece | None]:
        """The windows of each audio, in order, and None where one cannot be used; what they belong to joins `begun`."""
        for item in audio:
            whole = Assembly()
            begun.append(whole)
            try:
                yield from self._pieces_of(item, rate, point, whole)
            except InputError as error:
                whole.error = error
                yield None

    def _pieces_of(self, audio: Audio, rate: int | None, point: CompressionPoint, whole: Assembly) -> Iterator[Piece]:
        source = open_audio(audio.detach().cpu() if isinstance(audio, Tensor) else audio, rate)
        self._say_resampled(source)
        moments, blocks = self._measure(source)
        frames = self.model.architecture.frames(moments.count)
        if frames == 0:
            length, shortest = (
                1000 * samples / SAMPLE_RATE for samples in (moments.count, self.model.architecture.receptive_field)
            )
            detail = f"too short: {length:.0f} ms; it must be at least {shortest:.0f} ms"
            raise AudioError(source.name, "too short", detail)
        whole.begin(source.name, moments.count, frames, self.model.architecture.num_units)
        windows = self.windows(moments.count, point)
        first_frame = 0
        for window, samples in zip(windows, read_windows(blocks, windows, source.name), strict=True):
            heard = moments.normalize(samples) if self.header.normalize else samples
            yield Piece(heard, window, first_frame, whole)
            first_frame += window.kept.stop - window.kept.start

    def _measure(self, source: AudioSource) -> tuple[Moments, Iterable[AudioArray]]:
        """Length and level of the speech in `source`, and its blocks: those just read, unless it is long."""
        moments = Moments()
        held: list[AudioArray] = []
        for block in source.blocks():
            moments.add(block)
            held.append(block)
            if moments.count > self.chunk_seconds * SAMPLE_RATE:
                held.clear()
        return moments, held or source.blocks()

    def _say_resampled(self, source: AudioSource) -> None:
        if source.rate != SAMPLE_RATE and not self._said_resampled:
            self._said_resampled = True
            warnings.warn(
                f"{source.name}: is at {source.rate:g} Hz; what is not at {SAMPLE_RATE} Hz is resampled", stacklevel=2
            )

    def _run(self, batch: Sequence[Piece], point: CompressionPoint) -> None:
        began = time.perf_counter()
        results = self._log_probs([piece.samples for piece in batch], point)
        elapsed = (time.perf_counter() - began) / sum(len(piece.samples) for piece in batch)
        for piece, log_probs in zip(batch, results, strict=True):
            piece.put(log_probs, elapsed * len(piece.samples))

    def _result(self, whole: Assembly) -> Transcript | InputError:
        if whole.error is not None:
            return whole.error
        began = time.perf_counter()
        decoded = self.decoder(whole.log_probs)
        seconds = whole.seconds + time.perf_counter() - began
        return Transcript(decoded.text, decoded.words, whole.log_probs, whole.samples / SAMPLE_RATE, seconds)

    def windows(self, samples: int, point: CompressionPoint) -> list[Window]:
        """What the network sees of audio of `samples` samples, see `plan_windows`."""
        return plan_windows(self.model.architecture, samples, self.chunk_seconds, point)

    def _only(self, audio: Audio, rate: int | None, point: Point | None, strict: bool) -> Transcript:
        (result,) = self.recognize([audio], rate, point=point, strict=strict)
        return _unwrapped(result)

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


def _precision(precision: str, model_file: ModelFile, path: str | Path, device: torch.device) -> str:
    quantized = model_file.header.quantization is not None
    if precision not in get_args(Precision):
        raise InputError(f"precision {precision!r} is not known; it must be one of {', '.join(get_args(Precision))}")
    if precision == "auto":
        return "int8" if quantized else "bf16" if half_precision(device) == torch.bfloat16 else "fp32"
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
