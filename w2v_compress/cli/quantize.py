"""The verb `quantize`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..evaluation.report import megabytes
from .console import print_table, printing_warnings, progress_bar
from .options import BatchSizeOption, JsonOption, ModelArgument, data_option, seed_option

if TYPE_CHECKING:
    from ..data.manifest import Utterance
    from ..evaluation.sensitivity import EvaluationSet, PartCost
    from ..quantization.calibration import Calibration


def quantize(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Path of the int8 model file to write.")],
    scheme: Annotated[
        Literal["full", "paper"],
        typer.Option(help="full: quantize all matrix products. paper: linear layers only, as Peng et al. (2021)."),
    ] = "full",
    keep: Annotated[
        str,
        typer.Option(
            metavar="PARTS", help="Parts to leave in floating point: names printed by --sensitivity, comma-separated."
        ),
    ] = "",
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Measure and print the int8 cost of each part.")
    ] = False,
    max_wer_increase: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="X",
            help="Leave the fewest parts in floating point for which WER on DATA rises by at most X percentage points.",
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Folder of manifests written by `prepare`, to fix the scales of activations on: faster than without.",
        ),
    ] = None,
    calibration_subset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the manifest of --calibrate (default: that of --subset without --data, else train).",
        ),
    ] = None,
    data: Annotated[Path | None, data_option("compare WER before and after")] = None,
    subset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the manifest in DATA to read (default: test).")
    ] = None,
    seed: Annotated[int, seed_option("the choice of utterances to calibrate on")] = 0,
    batch_size: BatchSizeOption = 8,
    json_file: JsonOption = None,
) -> None:
    """Quantize a model file to int8."""
    from ..data.manifest import read_manifest
    from ..evaluation.sensitivity import EvaluationSet, quantize_within_limit
    from ..files import replacing, write_json
    from ..model_file.storage import quantize_file

    if max_wer_increase is not None and data is None:
        raise typer.BadParameter("requires --data", param_hint="--max-wer-increase")
    utterances = read_manifest(data, subset or "test") if data else []
    dataset = EvaluationSet.from_utterances(utterances, batch_size) if utterances else EvaluationSet.noise()
    kept = [part.strip() for part in keep.split(",") if part.strip()]
    result: dict[str, Any] = {"scheme": scheme}
    calibration = None
    if calibrate is not None:
        speech = calibration_subset or (subset if data is None else None) or "train"
        calibration = _calibrate(model, read_manifest(calibrate, speech), scheme, kept, seed)
        result["calibration"] = {"data": str(calibrate), "subset": speech} | calibration.describe()
    costs = _part_costs(model, scheme, dataset, calibration) if sensitivity or max_wer_increase is not None else []
    with replacing(out) as written:  # what cannot be measured is not left behind
        if max_wer_increase is None:
            quantize_file(model, written, scheme, kept, calibration)
        else:
            limit = max_wer_increase / 100
            kept = quantize_within_limit(model, written, scheme, dataset, limit, costs, kept, calibration)
            parts = ", ".join(kept) or "none"
            print(f"left in floating point to limit the WER increase to {max_wer_increase:g} points: {parts}")
        before, after = model.stat().st_size, written.stat().st_size
        result |= {"keep": kept, "bytes_before": before, "bytes_after": after, "ratio": before / after}
        if costs:
            result["sensitivity"] = [dataclasses.asdict(cost) for cost in costs]
        print(f"{megabytes(before)} -> {megabytes(after)}: {before / after:.2f} times smaller")
        if utterances:
            result |= _before_and_after(model, written, utterances, batch_size)
    if json_file:
        write_json(json_file, result)


def _calibrate(
    model: Path, utterances: "Sequence[Utterance]", scheme: str, keep: list[str], seed: int
) -> "Calibration":
    from ..evaluation.calibrate import calibrate as record

    with progress_bar("Calibrating") as progress, printing_warnings():
        paths = [utterance.path for utterance in utterances]
        return record(model, paths, scheme, keep=keep, seed=seed, progress=progress)


def _part_costs(
    model: Path, scheme: str, dataset: "EvaluationSet", calibration: "Calibration | None"
) -> "list[PartCost]":
    """Measure and print the int8 cost of each part."""
    from ..evaluation.sensitivity import measure_parts

    with progress_bar("Measuring parts") as progress:
        costs = measure_parts(model, scheme, dataset, calibration, progress)
    rows = [
        [cost.part, f"{cost.parameters:,}", f"{cost.logit_error:.4f}"]
        + ([] if cost.wer_increase is None else [f"{100 * cost.wer_increase:+.2f}"])
        for cost in costs
    ]
    columns = ["part", "parameters", "logit error"] + ([] if dataset.texts is None else ["WER, points"])
    print_table(f"int8 in one part only: {model}", columns, rows)
    return costs


def _before_and_after(model: Path, out: Path, utterances: "Sequence[Utterance]", batch_size: int) -> dict[str, Any]:
    """Measure and print the WER of both files and its difference; return them as JSON values."""
    from ..evaluation.evaluate import evaluate as measure
    from ..evaluation.wer import compare
    from ..runtime.recognizer import Recognizer

    reports = []
    for recognizer in (Recognizer.load(model, precision="fp32"), Recognizer.load(out, precision="int8")):
        with progress_bar(f"Evaluating in {recognizer.engine.precision}") as progress:
            reports.append(measure(recognizer, utterances, batch_size, progress=progress))
    difference = compare(reports[0].word_counts, reports[1].word_counts)
    print(f"WER {reports[0].wer.percent()} -> {reports[1].wer.percent()}, difference {difference.percent()}")
    before, after = (report.to_dict() for report in reports)
    return {"before": before, "after": after, "wer_difference": dataclasses.asdict(difference)}
