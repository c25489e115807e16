"""What int8 costs part by part, and which parts to keep from it so that a set's WER stays within a limit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from ..data.audio import SAMPLE_RATE
from ..data.manifest import Utterance
from ..errors import InputError
from ..model_file.storage import quantize_file, read_model
from ..progress import Progress, no_progress
from ..quantization import scheme as quantization_scheme
from ..runtime.recognizer import Recognizer
from .wer import word_errors

NOISE_SECONDS = 4.0


@dataclass(frozen=True)
class PartCost:
    """What it costs to quantize one part and nothing else."""

    part: str
    parameters: int
    logit_error: float
    """Root mean square of the change of the logits, over that of the logits, each frame's mean taken off both"""
    wer_increase: float | None
    """As a fraction; None without texts"""


@dataclass(frozen=True)
class Material:
    """What to measure on: audio, and the texts if there are any."""

    audio: list[Path | np.ndarray]
    texts: list[str] | None
    batch_size: int = 8

    @classmethod
    def of(cls, utterances: Sequence[Utterance], batch_size: int = 8) -> "Material":
        """Utterances with their texts."""
        return cls([item.path for item in utterances], [item.text for item in utterances], batch_size)

    @classmethod
    def noise(cls, seed: int = 0) -> "Material":
        """White noise that swells and fades: no speech, but it shows parts that quantize badly."""
        samples = np.random.default_rng(seed).normal(scale=0.1, size=round(NOISE_SECONDS * SAMPLE_RATE))
        return cls([(samples * np.abs(np.sin(np.arange(len(samples)) / 2000))).astype(np.float32)], None)


@dataclass
class Outcome:
    """Of one pass over the material."""

    logits: list[Tensor] = field(default_factory=list)
    """(frames, units) of each piece of audio, each frame's mean taken off"""
    wer: float | None = None

    def error(self, reference: "Outcome") -> float:
        """Of the logits, relative to `reference`."""
        pairs = list(zip(self.logits, reference.logits, strict=True))
        difference = sum(float((ours - theirs).square().sum()) for ours, theirs in pairs)
        return (difference / sum(float(theirs.square().sum()) for _, theirs in pairs)) ** 0.5


def run(recognizer: Recognizer, material: Material) -> Outcome:
    """One pass. Raises `InputError` for the first audio that cannot be used."""
    outcome, texts = Outcome(), []
    rate = SAMPLE_RATE if material.texts is None else None
    for result in recognizer.recognize(material.audio, rate, batch_size=material.batch_size):
        if isinstance(result, InputError):
            raise result
        outcome.logits.append(result.log_probs - result.log_probs.mean(-1, keepdim=True))
        texts.append(result.text)
    if material.texts is not None:
        outcome.wer = word_errors(material.texts, texts).rate
    return outcome


def measure_parts(path: Path, scheme: str, material: Material, progress: Progress = no_progress) -> list[PartCost]:
    """The cost of each part that `scheme` quantizes in the model file `path`, most sensitive first.

    The order is that of the logits' error: the WER of a small set changes by whole words or not at all. `progress`
    counts parts. Raises `InputError` when the model is int8 already or the scheme is unknown.
    """
    model_file = read_model(path)
    if model_file.header.quantization is not None:
        raise InputError(f"{path}: already quantized ({model_file.header.quantization['scheme']})")
    model = model_file.build()
    recognizer = Recognizer(model, model_file.header)
    parts = quantization_scheme.parts(model, scheme)
    reference = run(recognizer, material)
    costs: list[PartCost] = []
    for part, modules in parts.items():
        parameters = sum(tensor.numel() for name in modules for tensor in model.get_submodule(name).parameters())
        with quantization_scheme.quantized(model, modules):
            outcome = run(recognizer, material)
        increase = None if outcome.wer is None or reference.wer is None else outcome.wer - reference.wer
        costs.append(PartCost(part, parameters, outcome.error(reference), increase))
        progress(len(costs), len(parts))
    return sorted(costs, key=lambda cost: -cost.logit_error)


def choose_kept(
    order: Sequence[str], wer: Callable[[Sequence[str]], float], limit: float, keep: Sequence[str] = ()
) -> list[str]:
    """The fewest parts to keep, taken in `order` after those in `keep`, with which `wer(kept)` is at most `limit`.

    `wer` is last called with what is returned. That may be all parts: then nothing is quantized.
    """
    kept = list(keep)
    remaining = [part for part in order if part not in kept]
    while wer(kept) > limit and remaining:
        kept.append(remaining.pop(0))
    return kept


def quantize_within(
    path: Path,
    out: Path,
    scheme: str,
    material: Material,
    increase: float,
    costs: Sequence[PartCost],
    keep: Sequence[str] = (),
) -> list[str]:
    """Quantize the model in `path` at `out` so that the WER on `material` rises by at most `increase`, a fraction.

    What counts is the WER of the written file as it will run. Returns the parts kept from int8, most sensitive first
    by `costs` (of `measure_parts`) after those in `keep`.
    """

    def wer(kept: Sequence[str]) -> float:
        quantize_file(path, out, scheme, kept)
        return _wer(Recognizer.load(out), material)

    rounding = 1e-9  # a limit that is met to the word is met
    return choose_kept(
        [cost.part for cost in costs],
        wer,
        _wer(Recognizer.load(path, precision="fp32"), material) + increase + rounding,
        keep,
    )


def _wer(recognizer: Recognizer, material: Material) -> float:
    wer = run(recognizer, material).wer
    assert wer is not None  # the material has texts
    return wer
