"""The models of "Shrinking Bigfoot" at full size: how large and how fast ours are, WER where there are checkpoints."""

import dataclasses
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..data.audio import SAMPLE_RATE
from ..data.manifest import Utterance
from ..errors import InputError
from ..evaluation.evaluate import evaluate
from ..evaluation.machine import describe_machine, interleaved_latency
from ..evaluation.report import megabytes
from ..interop.fairseq_checkpoint import export_random
from ..model_file.storage import describe_model, quantize_file, read_header
from ..nn.acoustic_model import AcousticModel
from ..nn.architecture import named_architecture
from ..nn.device import has_int8_units
from ..nn.meta import on_meta_device
from ..progress import Progress, Steps, no_progress
from ..runtime.precision import Precision
from ..runtime.recognizer import Recognizer
from . import energy
from .published import BIGFOOT, Published

INT8_SHARE = 0.3  # of the fp32 file's size that an int8 file needs at most


@dataclass(frozen=True)
class Entry:
    """One model of the table, and what it is made of."""

    title: str
    architecture: str
    """A name of `nn.architecture.ARCHITECTURES`, and the name of the fp32 entry that has the weights."""
    precision: Precision = "fp32"
    scheme: Literal["paper", "full"] | None = None
    """How it is quantized, see `runtime.model_file.quantize_file`."""

    @property
    def has_file(self) -> bool:
        """bf16 is the fp32 file, computed in another precision."""
        return self.precision != "bf16"


ENTRIES: dict[str, Entry] = {
    "large": Entry("LARGE, fp32", "large"),
    "large-bf16": Entry("LARGE, bf16", "large", "bf16"),
    "large-int8-paper": Entry("LARGE, int8 paper", "large", "int8", "paper"),
    "large-int8-full": Entry("LARGE, int8 full", "large", "int8", "full"),
    "student-12": Entry("12 layers, fp32", "student-12"),
    "student-4": Entry("4 layers, fp32", "student-4"),
    "student-4-int8-full": Entry("4 layers, int8 full", "student-4", "int8", "full"),
    "base": Entry("base, fp32", "base"),
}
"""The rows of the table; an fp32 entry has its architecture's name and comes before what is made of it."""


def measure(
    *,
    given: Mapping[str, Path] | None = None,
    utterances: Sequence[Utterance] = (),
    work: Path | None = None,
    seconds: float = 10.0,
    repeats: int = 9,
    threads: int | None = None,
    measure_energy: bool = False,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """The table of "Shrinking Bigfoot" (Peng et al. 2021), JSON-able, the models measured side by side in one run.

    given: model files in place of those made here, by the names of `ENTRIES`; an int8 one that is not given is made
    of the fp32 one that is. Models that are not given have random weights, which size and time do not depend on.
    utterances: to measure the WER of models that are not random, batch 1.
    work: keeps the files, and takes fp32 files from there; else they go to a temporary folder.
    seconds: of noise, for the times: batch 1, the median of `repeats` runs, in turns. `seed`: of weights and noise.
    Raises `InputError`: what is given does not fit its row, the disk is too small, codecarbon is missing.
    """
    given = dict(given or {})
    _check_given(given)
    if utterances and not given:
        raise InputError("a test set needs models that are trained: name them with --model")
    if measure_energy:
        energy.require_codecarbon()
    trained = sum(name in given or entry.architecture in given for name, entry in ENTRIES.items())
    steps = Steps(progress, (2 + repeats + measure_energy) * len(ENTRIES) + trained * len(utterances))
    with _folder(work) as folder:
        files = _model_files(given, folder, seed, steps)
        recognizers = {
            name: Recognizer.load(files[name], precision=entry.precision, threads=threads)
            for name, entry in ENTRIES.items()
        }
        rows = _rows(files, given, seed)
    samples = np.random.default_rng(seed).normal(scale=0.1, size=round(seconds * SAMPLE_RATE)).astype(np.float32)

    def timed(recognizer: Recognizer) -> Callable[[], None]:
        def run() -> None:
            recognizer.emissions(samples, SAMPLE_RATE)
            steps.step()

        return run

    latency = interleaved_latency({name: timed(recognizer) for name, recognizer in recognizers.items()}, repeats)
    for name, row in rows.items():
        row |= {"milliseconds": latency[name], "times_faster": latency["large"] / latency[name]}
    _measure_wer(rows, recognizers, utterances, seed, steps)
    report = {"paper": "Peng et al. 2021, arXiv 2103.15760", "seed": seed, "seconds": seconds, "repeats": repeats}
    report |= {"batch_size": 1, "utterances": len(utterances), "machine": _machine()}
    if measure_energy:
        report["energy"] = _measure_energy(rows, recognizers, samples, repeats, steps)
    return report | {"models": list(rows.values()), "checks": _checks(rows)}


def _check_given(given: Mapping[str, Path]) -> None:
    rows = {name: entry for name, entry in ENTRIES.items() if entry.has_file}
    for name, path in given.items():
        if name not in rows:
            raise InputError(f"--model: {name!r} is no row of the table; it must be one of {', '.join(rows)}")
        quantization = read_header(path).quantization
        scheme = quantization["scheme"] if quantization else None
        if scheme != rows[name].scheme:
            kinds = [f"int8 by scheme `{kind}`" if kind else "not quantized" for kind in (scheme, rows[name].scheme)]
            raise InputError(f"{path}: {kinds[0]}; the row `{name}` needs one that is {kinds[1]}")


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    if work is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        work.mkdir(parents=True, exist_ok=True)
        yield work


def _model_files(given: Mapping[str, Path], folder: Path, seed: int, steps: Steps) -> dict[str, Path]:
    """The file of each entry; those that are missing are made. int8 files always are: making them is quick."""
    files = dict(given)
    missing: dict[str, Callable[[], Any]] = {}
    for name, entry in ENTRIES.items():
        if name in given:
            continue
        files[name] = folder / f"{name}-seed{seed}.safetensors"
        source = files[entry.architecture]
        if not entry.has_file:
            files[name] = source
        elif entry.scheme is not None:
            missing[name] = partial(quantize_file, source, files[name], scheme=entry.scheme)
        elif not files[name].exists():
            missing[name] = partial(export_random, name, files[name], seed)
    _check_space(folder, missing)
    steps.step(len(ENTRIES) - len(missing))
    for make in missing.values():
        make()
        steps.step()
    return files


def _check_space(folder: Path, names: Iterable[str]) -> None:
    needed = 0.0
    for name in names:
        with on_meta_device():
            network = AcousticModel(named_architecture(ENTRIES[name].architecture))
        size = sum(4 * parameter.numel() for parameter in network.parameters())
        needed += size * (INT8_SHARE if ENTRIES[name].scheme else 1)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: the models need {megabytes(round(needed))}, but {megabytes(free)} are free: "
            "name another folder with --work"
        )


def _rows(files: Mapping[str, Path], given: Mapping[str, Path], seed: int) -> dict[str, dict[str, Any]]:
    """What is known of each model before it runs."""
    rows: dict[str, dict[str, Any]] = {}
    descriptions = {path: describe_model(path) for path in set(files.values())}
    for name, entry in ENTRIES.items():
        description = descriptions[files[name]]
        size = description["bytes"] if entry.has_file else None
        weights = given.get(name) or given.get(entry.architecture)
        rows[name] = {
            "name": name,
            "title": entry.title,
            "weights": str(weights) if weights else f"random, seed {seed}",
            "random": weights is None,
            "precision": entry.precision,
            "parameters": description["parameters"],
            "bytes": size,
            "times_smaller": rows.get("large", {"bytes": size})["bytes"] / size if size else None,
            "wer": None,
            "published": _published(BIGFOOT.get(name)),
        }
    return rows


def _published(model: Published | None) -> dict[str, Any] | None:
    """The paper's figures and the ratios to LARGE that they give."""
    if model is None:
        return None
    large = BIGFOOT["large"]
    values = dataclasses.asdict(model)
    for ratio, field in (("times_smaller", "megabytes"), ("times_faster", "cpu_seconds")):
        values[ratio] = getattr(large, field) / values[field] if values[field] else None
    return values


def _measure_wer(
    rows: Mapping[str, dict[str, Any]],
    recognizers: Mapping[str, Recognizer],
    utterances: Sequence[Utterance],
    seed: int,
    steps: Steps,
) -> None:
    for name, row in rows.items():
        if utterances and not row["random"]:
            report = evaluate(
                recognizers[name], utterances, batch_size=1, seed=seed, progress=lambda done, total: steps.step()
            )
            row["wer"] = dataclasses.asdict(report.wer)


def _measure_energy(
    rows: Mapping[str, dict[str, Any]],
    recognizers: Mapping[str, Recognizer],
    samples: np.ndarray,
    repeats: int,
    steps: Steps,
) -> dict[str, Any]:
    """Adds joules per second of audio to the rows, where the machine measures them; else says why not."""
    reason = energy.why_unmeasured()
    if reason is None:
        for name, model in recognizers.items():
            joules = energy.processor_joules(partial(model.transcribe, [samples] * repeats, SAMPLE_RATE, batch_size=1))
            rows[name]["joules_per_second"] = joules / (repeats * len(samples) / SAMPLE_RATE)
            steps.step()
    return {"measured": reason is None, "reason": reason}


def _machine() -> dict[str, Any]:
    return describe_machine() | {"int8_units": has_int8_units()}


def _checks(rows: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Whether the models keep what this project promises of them."""

    def smaller(name: str) -> float:
        return rows[name]["times_smaller"]

    def faster(name: str, reference: str) -> float:
        return rows[reference]["milliseconds"] / rows[name]["milliseconds"]

    published = BIGFOOT["large"].megabytes
    assert published is not None
    deviation = 100 * (rows["large"]["bytes"] / (1e6 * published) - 1)
    checks = [
        {
            "target": f"LARGE within 1% of the paper's {published} MB",
            "measured": f"{round(deviation, 2) + 0.0:+.2f}%",  # + 0.0: never -0.00
            "met": abs(deviation) <= 1,
        }
    ]
    for text, measured, least in (
        ("4 layers smaller than LARGE", smaller("student-4"), 4.8),
        ("int8 paper smaller than fp32", smaller("large-int8-paper"), 3.55),
        ("int8 full smaller than fp32", smaller("large-int8-full"), 3.9),
        ("4 layers faster than LARGE, both fp32", faster("student-4", "large"), 3.0),
        ("4 layers faster than LARGE, both int8 full", faster("student-4-int8-full", "large-int8-full"), 3.0),
        ("LARGE, int8 full faster than fp32", faster("large-int8-full", "large"), 2.5),
        ("LARGE, int8 full not slower than bf16", faster("large-int8-full", "large-bf16"), 1.0),
    ):
        shown = math.floor(100 * measured) / 100  # rounded down: 2.996 is not 3.00
        checks.append({"target": f"{text}: >= {least:g}x", "measured": f"{shown:.2f}x", "met": measured >= least})
    return checks
