"""The OpenVINO engine: fp32, bf16 and int8 on CPUs.

The feature extractor runs on pieces of the audio, whose activations stay in the processor's cache, with the same graph
at every compression point. The encoder has one graph for each point, compiled when the point is first used.
"""

import functools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino

from ....cores import available_cores
from ....data.audio import AudioArray
from ....errors import InputError
from ....memory import release_memory
from ....model_file.tensor_file import TensorFile
from ....nn.compression import CompressionPoint
from ....nn.parameters import EXTRACTOR
from ....processor import processor
from ...decoding.words import LogProbs
from .cache import GraphCache
from .graph import GraphBuilder, encoder_masks, padded_length, samples_of
from .group_norm import fold_group_norm
from .weights import Weights

LONG_PIECE, SHORT_PIECE = 64, 16
"""Lengths of the pieces of audio that the feature extractor runs on, in output frames. Longer ones are not faster; the
short ones reduce the padding of the last piece."""
MAX_POINTS = 4
"""Number of compression points whose graphs stay in memory."""
FloatArray = npt.NDArray[np.float32]


class Graph:
    """A compiled graph with one output, which several threads may run at the same time."""

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self._compiled = compiled
        self._idle: list[openvino.InferRequest] = []

    def run(self, inputs: dict[str, FloatArray]) -> FloatArray:
        """Return the output for `inputs` by name."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        output: FloatArray = request.infer(inputs, share_inputs=True, share_outputs=True)[0].copy()
        self._idle.append(request)
        return output


class OpenVinoEngine:
    """Run a model file with OpenVINO on the CPU."""

    name = "openvino"
    device = "cpu"
    batch_seconds: float | None = None

    def __init__(
        self,
        path: Path,
        precision: str,
        *,
        threads: int | None = None,
        streams: int = 1,
        cache: bool = True,
        max_points: int = MAX_POINTS,
    ) -> None:
        """Load the model file `path`.

        Args:
            path: A model file.
            precision: `fp32`, `bf16` or, for an int8 model, `int8`, which computes all else in the faster of the two.
            threads: Number of threads; by default one for each available core.
            streams: Number of utterances of a batch to run at a time, which share the threads.
            cache: Whether to load compiled graphs from disk and store them there, see `cache`.
            max_points: Number of compression points whose graphs stay in memory.

        Raises:
            InputError: The file is not a model file, or an option is invalid.
        """
        self.threads = available_cores() if threads is None else threads
        for name, value in (("threads", self.threads), ("streams", streams), ("max_points", max_points)):
            if value < 1:
                raise InputError(f"`{name}` is {value}; it must be at least 1")
        self.precision = precision
        self.streams = min(streams, self.threads)
        self._file = TensorFile.read(path)
        self._architecture = self._file.header.architecture
        self._core = openvino.Core()
        self._reduced = precision == "bf16" or (precision == "int8" and processor().has_fast_bfloat16)
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if self._reduced else "f32",
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": self.streams,
            # Threads that are bound to a core wait for it while another process has it.
            "ENABLE_CPU_PINNING": False,
        }
        self._cache = GraphCache(self._core, self._file, options, enabled=cache)
        self._group_norm = self._group_norm_tensors() if self._architecture.has_group_norm else None
        self._extractors: dict[int, Graph] = {}
        self._encoders: OrderedDict[CompressionPoint, Graph] = OrderedDict()
        self._max_points = max_points
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(self.streams) if self.streams > 1 else None

    def log_probs(self, waveforms: Sequence[AudioArray], point: CompressionPoint) -> list[LogProbs]:
        """Run each waveform on its own, `streams` of them at a time; see `Engine.log_probs`."""
        encoder = self._encoder(point)

        def run(waveform: AudioArray) -> LogProbs:
            return _log_softmax(self._encode(encoder, point, self._features(waveform)))

        if self._pool is None or len(waveforms) == 1:
            return [run(waveform) for waveform in waveforms]
        return list(self._pool.map(run, waveforms))

    def keep_points(self, count: int) -> None:
        """Keep the graphs of at least `count` points in memory."""
        self._max_points = max(self._max_points, count)

    @functools.cached_property
    def _builder(self) -> GraphBuilder:
        """The builder of graphs that are not in the cache; a start with all of them there needs none."""
        weights = Weights(self._core, self._file)
        return GraphBuilder(weights, reduced=self._reduced, short_weights=processor().overflows_int8)

    def _encode(self, encoder: Graph, point: CompressionPoint, features: FloatArray) -> FloatArray:
        """Compute the logits `(frames, units)` for features `(frames, channels)`."""
        valid = len(features)
        frames = padded_length(valid, point.squeeze)
        padded = np.zeros((1, frames, features.shape[1]), np.float32)
        padded[0, :valid] = features
        masks = encoder_masks(point, self._architecture.pools_per_layer(point), valid, frames)
        return encoder.run({"features": padded} | masks)[0, :valid]

    def _features(self, waveform: AudioArray) -> FloatArray:
        """Compute the features `(frames, channels)` of a waveform `(samples,)`, piece by piece."""
        architecture = self._architecture
        hop, frames = architecture.samples_per_frame, architecture.frames(len(waveform))
        # The norm cancels a constant offset of the audio. Without it, bf16 loses no precision to it.
        inputs = {}
        if self._group_norm is not None:
            waveform = waveform - waveform.mean(dtype=np.float64).astype(np.float32)
            factor, offset = fold_group_norm(waveform, *self._group_norm)
            inputs = {"factor": factor.reshape(1, -1, 1), "offset": offset.reshape(1, -1, 1)}
        features = np.empty((frames, architecture.conv_layers[-1][0]), np.float32)
        for first, length in pieces(frames):
            extractor, samples = self._extractor(length), samples_of(architecture, length)
            piece = waveform[first * hop : first * hop + samples]
            if len(piece) < samples:
                piece = np.pad(piece, (0, samples - len(piece)))
            out = extractor.run({"audio": np.ascontiguousarray(piece).reshape(1, 1, -1)} | inputs)
            features[first : first + length] = out[0, : frames - first]
        return features

    def _extractor(self, length: int) -> Graph:
        """Return the compiled graph for pieces of `length` frames; compiles it when it is first used."""
        with self._lock:
            if length not in self._extractors:
                compiled = self._cache.compiled(f"extractor {length}", lambda: self._builder.extractor(length))
                self._extractors[length] = Graph(compiled)
            return self._extractors[length]

    def _encoder(self, point: CompressionPoint) -> Graph:
        """Return the compiled graph of a point; compiles it, and drops the one unused for longest if needed."""
        with self._lock:
            if point not in self._encoders:
                compiled = self._cache.compiled(f"encoder {point}", lambda: self._builder.encoder(point))
                self._encoders[point] = Graph(compiled)
                self._pack_weights(self._encoders[point], point)
            self._encoders.move_to_end(point)
            if len(self._encoders) > self._max_points:
                self._encoders.popitem(last=False)
            return self._encoders[point]

    def _pack_weights(self, encoder: Graph, point: CompressionPoint) -> None:
        """Run the graph once, so that OpenVINO packs its weights, and give back the memory of the weights file.

        Otherwise both would stay in memory along with the activations of the first utterance.
        """
        self._encode(encoder, point, np.zeros((1, self._architecture.conv_layers[-1][0]), np.float32))
        release_memory(self._file.path)

    def _group_norm_tensors(self) -> tuple[FloatArray, int, FloatArray, FloatArray]:
        """Return the arguments of `fold_group_norm` besides the waveform."""
        kernels = self._file.array(f"{EXTRACTOR}.0.0.weight")[:, 0]
        weight, bias = (self._file.array(f"{EXTRACTOR}.0.2.{name}") for name in ("weight", "bias"))
        return kernels, self._architecture.conv_layers[0][2], weight, bias


def pieces(frames: int) -> Iterator[tuple[int, int]]:
    """Yield first frame and length of the pieces that cover `frames` frames; the last may reach beyond them."""
    first = 0
    while first < frames:
        length = LONG_PIECE if frames - first > LONG_PIECE - SHORT_PIECE else SHORT_PIECE
        yield first, length
        first += length


def _log_softmax(logits: FloatArray) -> LogProbs:
    shifted = logits - logits.max(-1, keepdims=True)
    result: LogProbs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result
