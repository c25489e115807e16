"""Size, CPU time and WER of full-size models for the table of "Shrinking Bigfoot" (Peng et al. 2021)."""

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
from ..model_file.storage import quantize_file
from ..model_file.tensor_file import describe_model, read_header
from ..nn.architecture import named_architecture
from ..nn.device import has_int8_units
from ..nn.parameters import parameter_count
from ..progress import Progress, Steps, no_progress
from ..runtime.precision import Precision
from ..runtime.recognizer import Recognizer
from . import energy
from .published import BIGFOOT, Published

INT8_SIZE_RATIO = 0.3  # upper bound of an int8 file's size, relative to the fp32 file


@dataclass(frozen=True)
class Entry:
    """A row of the table, and the model that it measures."""

    title: str
    architecture: str
    """Name in `nn.architecture.ARCHITECTURES`, and of the fp32 entry whose weights this entry uses."""
    precision: Precision = "fp32"
    scheme: Literal["paper", "full"] | None = None
    """Quantization scheme, see `model_file.storage.quantize_file`."""

    @property
    def has_file(self) -> bool:
        """Whether the entry has its own file; a bf16 entry runs the fp32 file."""
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
"""Rows of the table; each fp32 entry has the name of its architecture and precedes the entries that use its weights."""


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
    """Measure the models of the table of "Shrinking Bigfoot" with interleaved runs; returns a report for JSON.

    Args:
        given: Trained model files by the names of `ENTRIES`. A missing int8 file is quantized from the fp32 file of its
            architecture. Other models get random weights, on which size and time do not depend.
        utterances: Test set for the WER of trained models, at batch size 1.
        work: Folder for the model files, whose fp32 files are reused; by default a temporary folder.
        seconds: Length of the noise that is timed at batch size 1.
        repeats: Number of timed runs of each model; the median is reported.
        threads: Number of threads.
        measure_energy: Whether to measure the energy too.
        seed: Random seed for weights and noise.
        progress: Counts model files, runs and utterances.

    Raises `InputError` when a given file does not match its row, the disk space is too small, or codecarbon is missing.
    """
    given = dict(given or {})
    _check_given(given)
    if utterances and not given:
        raise InputError("a test set needs trained models: name them with --model")
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
    _measure_latency(rows, recognizers, samples, repeats, steps)
    _measure_wer(rows, recognizers, utterances, seed, steps)
    report = {"paper": "Peng et al. 2021, arXiv 2103.15760", "seed": seed, "seconds": seconds, "repeats": repeats}
    report |= {"batch_size": 1, "utterances": len(utterances), "machine": _machine()}
    if measure_energy:
        report["energy"] = _measure_energy(rows, recognizers, samples, repeats, steps)
    return report | {"models": list(rows.values()), "checks": check_targets(rows)}


def _check_given(given: Mapping[str, Path]) -> None:
    """Raise `InputError` unless each given file has the quantization of its row."""
    rows = {name: entry for name, entry in ENTRIES.items() if entry.has_file}
    for name, path in given.items():
        if name not in rows:
            raise InputError(f"--model: {name!r} is not a row of the table; it must be one of {', '.join(rows)}")
        quantization = read_header(path).quantization
        scheme = quantization["scheme"] if quantization else None
        if scheme != rows[name].scheme:
            kinds = (scheme, rows[name].scheme)
            found, needed = (f"int8 with scheme `{kind}`" if kind else "not quantized" for kind in kinds)
            raise InputError(f"{path}: is {found}; the row `{name}` needs a file that is {needed}")


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    """Yield the folder `work`, or a temporary one."""
    if work is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        work.mkdir(parents=True, exist_ok=True)
        yield work


def _model_files(given: Mapping[str, Path], folder: Path, seed: int, steps: Steps) -> dict[str, Path]:
    """Return the file of each entry, after writing those that are missing and all int8 files, which is fast."""
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
    for write in missing.values():
        write()
        steps.step()
    return files


def _check_space(folder: Path, names: Iterable[str]) -> None:
    """Raise `InputError` when `folder` has too little free space for the files of these entries."""
    needed = 0.0
    for name in names:
        size = 4 * parameter_count(named_architecture(ENTRIES[name].architecture))
        needed += size * (INT8_SIZE_RATIO if ENTRIES[name].scheme else 1)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: the models need {megabytes(round(needed))}, but {megabytes(free)} are free; "
            "choose another folder with --work"
        )


def _rows(files: Mapping[str, Path], given: Mapping[str, Path], seed: int) -> dict[str, dict[str, Any]]:
    """Return the fields of each row that need no measurement."""
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
    """Return the published results, with size and speed relative to LARGE computed from them."""
    if model is None:
        return None
    large = BIGFOOT["large"]
    values = dataclasses.asdict(model)
    for ratio, field in (("times_smaller", "megabytes"), ("times_faster", "cpu_seconds")):
        values[ratio] = getattr(large, field) / values[field] if values[field] else None
    return values


def _measure_latency(
    rows: Mapping[str, dict[str, Any]],
    recognizers: Mapping[str, Recognizer],
    samples: np.ndarray,
    repeats: int,
    steps: Steps,
) -> None:
    """Add the median time and the speed-up over LARGE to the rows."""

    def run(recognizer: Recognizer) -> None:
        recognizer.emissions(samples, SAMPLE_RATE)
        steps.step()

    latency = interleaved_latency({name: partial(run, each) for name, each in recognizers.items()}, repeats)
    for name, row in rows.items():
        row |= {"milliseconds": latency[name], "times_faster": latency["large"] / latency[name]}


def _measure_wer(
    rows: Mapping[str, dict[str, Any]],
    recognizers: Mapping[str, Recognizer],
    utterances: Sequence[Utterance],
    seed: int,
    steps: Steps,
) -> None:
    """Add the WER of trained models to the rows."""
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
    """Add joules per second of audio to the rows; returns whether this was possible, or the reason why not."""
    reason = energy.missing_counters()
    if reason is None:
        for name, model in recognizers.items():
            joules = energy.processor_joules(partial(model.transcribe, [samples] * repeats, SAMPLE_RATE, batch_size=1))
            rows[name]["joules_per_second"] = joules / (repeats * len(samples) / SAMPLE_RATE)
            steps.step()
    return {"measured": reason is None, "reason": reason}


def _machine() -> dict[str, Any]:
    """Describe the machine, with its int8 units."""
    return describe_machine() | {"int8_units": has_int8_units()}


def check_targets(rows: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare sizes and speed-ups with this project's targets: target, measured value, and whether it is met."""

    def smaller(name: str) -> float:
        return rows[name]["times_smaller"]

    def faster(name: str, baseline: str) -> float:
        return rows[baseline]["milliseconds"] / rows[name]["milliseconds"]

    published = BIGFOOT["large"].megabytes
    assert published is not None
    deviation = 100 * (rows["large"]["bytes"] / (1e6 * published) - 1)
    checks = [
        {
            "target": f"LARGE within 1% of the paper's {published} MB",
            "measured": f"{round(deviation, 2) + 0.0:+.2f}%",  # + 0.0 turns -0.00 into 0.00
            "met": abs(deviation) <= 1,
        }
    ]
    for text, measured, minimum in (
        ("4 layers smaller than LARGE", smaller("student-4"), 4.8),
        ("int8 paper smaller than fp32", smaller("large-int8-paper"), 3.55),
        ("int8 full smaller than fp32", smaller("large-int8-full"), 3.9),
        ("4 layers faster than LARGE, both fp32", faster("student-4", "large"), 3.0),
        ("4 layers faster than LARGE, both int8 full", faster("student-4-int8-full", "large-int8-full"), 3.0),
        ("LARGE, int8 full faster than fp32", faster("large-int8-full", "large"), 2.5),
        ("LARGE, int8 full not slower than bf16", faster("large-int8-full", "large-bf16"), 1.0),
    ):
        shown = math.floor(100 * measured) / 100  # rounds down, so that 2.996 is not shown as 3.00
        checks.append({"target": f"{text}: >= {minimum:g}x", "measured": f"{shown:.2f}x", "met": measured >= minimum})
    return checks
