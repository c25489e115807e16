"""Sensitivity to int8: the cost of quantizing each part, and the parts to keep in floating point for a WER limit."""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..data.audio import SAMPLE_RATE
from ..data.manifest import Utterance
from ..errors import InputError, prefixed
from ..model_file.storage import check_not_quantized, quantize_file
from ..model_file.tensor_file import read_header
from ..nn.parameters import parameter_shapes
from ..progress import Progress, no_progress
from ..quantization.calibration import Calibration
from ..quantization.parts import quantizable_parts
from ..runtime.decoding.words import LogProbs
from ..runtime.recognizer import Recognizer
from .wer import word_errors

NOISE_SECONDS = 4.0


@dataclass(frozen=True)
class PartCost:
    """Cost of quantizing one part and nothing else."""

    part: str
    parameters: int
    logit_error: float
    """Root mean square of the change of the logits, relative to that of the logits; each frame's mean is subtracted."""
    wer_increase: float | None
    """Increase of the WER as a fraction; None without reference texts."""


@dataclass(frozen=True)
class EvaluationSet:
    """Audio to run, and its reference texts if there are any."""

    audio: list[Path | np.ndarray]
    texts: list[str] | None
    batch_size: int = 8
    rate: int | None = None
    """Sampling rate of audio that is given as arrays."""

    @classmethod
    def from_utterances(cls, utterances: Sequence[Utterance], batch_size: int = 8) -> "EvaluationSet":
        """Return the audio and texts of `utterances`."""
        return cls([item.path for item in utterances], [item.text for item in utterances], batch_size)

    @classmethod
    def noise(cls, seed: int = 0) -> "EvaluationSet":
        """Return white noise of varying level without texts, which reveals parts that quantize badly."""
        samples = np.random.default_rng(seed).normal(scale=0.1, size=round(NOISE_SECONDS * SAMPLE_RATE))
        return cls(
            [(samples * np.abs(np.sin(np.arange(len(samples)) / 2000))).astype(np.float32)], None, rate=SAMPLE_RATE
        )


@dataclass
class Outputs:
    """Outputs of a recognizer for an evaluation set."""

    logits: list[LogProbs] = field(default_factory=list)
    """Logits (frames, units) for each piece of audio, with each frame's mean subtracted."""
    wer: float | None = None

    def relative_error(self, reference: "Outputs") -> float:
        """Return the root mean square of the difference of the logits, relative to that of `reference`."""
        pairs = list(zip(self.logits, reference.logits, strict=True))
        difference = sum(float(np.square(ours - theirs, dtype=np.float64).sum()) for ours, theirs in pairs)
        return math.sqrt(difference / sum(float(np.square(theirs, dtype=np.float64).sum()) for _, theirs in pairs))


def compute_outputs(recognizer: Recognizer, dataset: EvaluationSet) -> Outputs:
    """Run `recognizer` on `dataset`. Raises `InputError` for the first audio that cannot be read."""
    outputs, texts = Outputs(), []
    for result in recognizer.recognize(dataset.audio, dataset.rate, batch_size=dataset.batch_size):
        if isinstance(result, InputError):
            raise result
        outputs.logits.append(result.log_probs - result.log_probs.mean(-1, keepdims=True))
        texts.append(result.text)
    if dataset.texts is not None:
        outputs.wer = word_errors(dataset.texts, texts).rate
    return outputs


def measure_parts(
    path: Path,
    scheme: str,
    dataset: EvaluationSet,
    calibration: Calibration | None = None,
    progress: Progress = no_progress,
) -> list[PartCost]:
    """Measure the cost of each part that `scheme` quantizes in the model file `path`, most sensitive part first.

    Each part is quantized alone, with the activation scales of `calibration` if given, and compared with fp32. Parts
    are sorted by the error of the logits, because the WER of a small set changes in steps of whole words. `progress`
    counts parts. Raises `InputError` when the model is already int8 or the scheme is unknown.
    """
    header = read_header(path)
    with prefixed(path):
        check_not_quantized(header)
        parts = quantizable_parts(header.architecture, scheme, calibrated=calibration is not None)
    # `calibrate` refuses to leave out parts other than those that the user keeps.
    measured = {part: names for part, names in parts.items() if calibration is None or calibration.covers(names)}
    shapes = parameter_shapes(header.architecture)
    reference = compute_outputs(Recognizer.load(path, precision="fp32"), dataset)
    costs: list[PartCost] = []
    with tempfile.TemporaryDirectory() as folder:
        for part, modules in measured.items():
            alone = Path(folder) / "part.safetensors"
            quantize_file(path, alone, scheme, [other for other in parts if other != part], calibration)
            outputs = compute_outputs(Recognizer.load(alone, cache=False), dataset)
            parameters = sum(math.prod(shape) for name, shape in shapes.items() if name.rpartition(".")[0] in modules)
            increase = None if outputs.wer is None or reference.wer is None else outputs.wer - reference.wer
            costs.append(PartCost(part, parameters, outputs.relative_error(reference), increase))
            progress(len(costs), len(measured))
    return sorted(costs, key=lambda cost: -cost.logit_error)


def choose_parts_to_keep(
    order: Sequence[str], wer: Callable[[Sequence[str]], float], limit: float, keep: Sequence[str] = ()
) -> list[str]:
    """Return the fewest parts to keep in floating point such that `wer(parts)` is at most `limit`.

    Starts with `keep` and adds parts in the given `order`, at most all of them. The last call of `wer` is for the
    returned parts.
    """
    kept = list(keep)
    remaining = [part for part in order if part not in kept]
    while wer(kept) > limit and remaining:
        kept.append(remaining.pop(0))
    return kept


def quantize_within_limit(
    path: Path,
    out: Path,
    scheme: str,
    dataset: EvaluationSet,
    increase: float,
    costs: Sequence[PartCost],
    keep: Sequence[str] = (),
    calibration: Calibration | None = None,
) -> list[str]:
    """Quantize the model file `path` to `out` such that the WER on `dataset` rises by at most `increase`, a fraction.

    The limit applies to the WER of the written file in its final precision. Returns the parts that stay in floating
    point: those in `keep`, then the most sensitive ones by `costs`, which `measure_parts` returns. `calibration` is
    that of `quantize_file`.
    """

    def wer(kept: Sequence[str]) -> float:
        quantize_file(path, out, scheme, kept, calibration)
        return measure_wer(Recognizer.load(out, cache=False), dataset)

    tolerance = 1e-9  # an increase of exactly the limit is within it, despite rounding
    limit = measure_wer(Recognizer.load(path, precision="fp32"), dataset) + increase + tolerance
    return choose_parts_to_keep([cost.part for cost in costs], wer, limit, keep)


def measure_wer(recognizer: Recognizer, dataset: EvaluationSet) -> float:
    """Return the WER of `recognizer` on `dataset`, which must have texts."""
    wer = compute_outputs(recognizer, dataset).wer
    if wer is None:
        raise ValueError("a WER needs reference texts")
    return wer
