"""Transcribe audio with a model file: the recognizer that `w2v_compress.load` returns."""

import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ..data.audio import SAMPLE_RATE
from ..errors import InputError
from ..model_file.header import Header
from ..model_file.points import Point, resolve_point, untrained_warning
from ..nn.compression import CompressionPoint
from .batching import batches, look_ahead, read_ahead
from .decoding import Decoder, GreedyDecoder, Word
from .decoding.words import LogProbs
from .engines.choice import load_engine
from .engines.engine import Engine
from .engines.names import EngineName
from .precision import Precision
from .stream import Audio, AudioStream, Recording, Segment
from .windows import CHUNK_SECONDS, Window, plan_windows

if TYPE_CHECKING:
    from ..nn.feature_extractor import GroupNormStatistics


@dataclass(frozen=True)
class Transcript:
    """The transcript of one recording."""

    text: str
    words: tuple[Word, ...]
    """The words of `text`, with their times."""
    log_probs: LogProbs
    """Log-probabilities, `(frames, units)`."""
    audio_seconds: float
    compute_seconds: float
    """Batch time prorated by length, plus decoding; excludes audio I/O."""


class Recognizer:
    """Transcribe audio with an engine and its units; `Recognizer.load` creates one from a model file.

    Several threads may use a recognizer at the same time, but for decoders, see `decoder`.
    """

    def __init__(self, engine: Engine, header: Header, *, chunk_seconds: float = CHUNK_SECONDS) -> None:
        self.engine = engine
        """Computes log-probabilities; `engine.precision`, `engine.device` and `engine.threads` say how."""
        self.header = header
        self.chunk_seconds = chunk_seconds
        """Longest window in seconds; longer audio is cut into overlapping windows, see `plan_windows`."""
        self.decoder: Decoder = GreedyDecoder(header.units, header.seconds_per_frame)
        """Decoder of log-probabilities; assign another one to replace greedy decoding. Beam search is for one thread
        at a time."""
        self._warned: set[object] = set()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        engine: EngineName = "auto",
        precision: Precision = "auto",
        device: str = "cpu",
        threads: int | None = None,
        streams: int = 1,
        cache: bool = True,
        group_norm_statistics: "GroupNormStatistics" = "valid",
    ) -> "Recognizer":
        """Load the model file `path`.

        Args:
            path: a model file of this project
            engine: "openvino", for CPUs; "torch", for CPUs and GPUs; or "auto": on CPUs openvino where it is
                installed, except for int8 models that were not calibrated, else torch
            precision: "auto" is int8 for a quantized file, else bf16 where that is faster than fp32 (a CPU with AMX or
                most with AVX512-BF16, a GPU from Ampere on), else fp32
            device: "cpu", "cuda" or "cuda:N"
            threads: number of CPU threads, by default one for each available core. torch has one number for the whole
                process, see `runtime.engines.threads.set_threads`
            streams: number of utterances of a batch that the openvino engine runs at a time, sharing the threads. One
                is best for the delay of single utterances, as many as threads for archives
            cache: whether the openvino engine stores compiled graphs on disk, which makes the next start faster
            group_norm_statistics: how the torch engine normalizes batches, see `nn.feature_extractor.FeatureExtractor`

        Raises `InputError` if the file is not a model file of this project, or an option does not suit it.
        """
        loaded, header = load_engine(
            Path(path),
            engine=engine,
            precision=precision,
            device=device,
            threads=threads,
            streams=streams,
            cache=cache,
            group_norm_statistics=group_norm_statistics,
        )
        return cls(loaded, header)

    def checked_point(self, point: Point | None = None, *, strict: bool = False) -> CompressionPoint:
        """Return the compression point to run at: `point`, or the header's default point if it is None.

        A point that the model was not trained for gives a warning the first time; with `strict` it raises `InputError`.
        A point that the network does not have always raises `InputError`.
        """
        chosen = resolve_point(self.header, point, strict=strict)
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
    ) -> LogProbs:
        """Return log-probabilities `(frames, units)`, at 50 Hz at every compression point.

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

        Audio is read in a thread, little more than ten minutes ahead of the results that are asked for. Long files are
        streamed window by window and read twice: first to find their length, their level and their faults. A batch has
        up to `batch_size` windows of similar length; an engine that pads nothing gets more. Audio at other rates than
        16 kHz is resampled, with a warning the first time. `point` and `strict` are passed to `checked_point`.
        """
        if batch_size < 1:
            raise InputError(f"`batch_size` is {batch_size}; it must be at least 1")
        return self._recognize(iter(audio), rate, batch_size, self.checked_point(point, strict=strict))

    def windows(self, samples: int, point: CompressionPoint) -> list[Window]:
        """Return the windows in which the network processes audio of `samples` samples, see `plan_windows`."""
        return plan_windows(self.header.architecture, samples, self.chunk_seconds, point)

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
        for group in read_ahead(look_ahead(stream, batch_size)):
            valid = [segment for segment in group if segment.recording.error is None]
            for batch in batches(valid, batch_size, self.engine.batch_seconds):
                self._run(batch, point)
            for recording in stream.completed():
                yield recording.error or self._decode(recording)

    def _run(self, batch: Sequence[Segment], point: CompressionPoint) -> None:
        """Store in each segment its log-probabilities and its share of the batch time, prorated by length."""
        start = time.perf_counter()
        results = self.engine.log_probs([segment.samples for segment in batch], point)
        seconds_per_sample = (time.perf_counter() - start) / sum(len(segment.samples) for segment in batch)
        for segment, log_probs in zip(batch, results, strict=True):
            segment.store(log_probs, seconds_per_sample * len(segment.samples))

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
