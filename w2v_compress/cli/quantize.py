"""The verb `quantize`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..evaluation.report import megabytes
from .console import print_table, progress_bar
from .options import BatchSizeOption, JsonOption, ModelArgument, SubsetOption


def quantize(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The int8 model file to write.")],
    scheme: Annotated[
        Literal["full", "paper"], typer.Option(help="All matrix products; or the Linear layers only, as the paper has.")
    ] = "full",
    keep: Annotated[
        str, typer.Option(metavar="PARTS", help="Not in int8: names as --sensitivity prints them, joined by commas.")
    ] = "",
    sensitivity: Annotated[bool, typer.Option("--sensitivity", help="Show what int8 costs in each part.")] = False,
    max_wer_increase: Annotated[
        float | None, typer.Option(min=0, metavar="X", help="Keep the fewest parts that hold it to X points; on DATA.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Manifest folder: also compare the WER before and after.")
    ] = None,
    subset: SubsetOption = "test",
    batch_size: BatchSizeOption = 8,
    json_file: JsonOption = None,
) -> None:
    """Write the model in int8."""
    from ..data.manifest import read_manifest
    from ..evaluation import sensitivity as report
    from ..files import write_json
    from ..model_file.storage import quantize_file

    if max_wer_increase is not None and data is None:
        raise typer.BadParameter("needs --data", param_hint="--max-wer-increase")
    utterances = read_manifest(data, subset) if data else []
    material = report.Material.of(utterances, batch_size) if utterances else report.Material.noise()
    kept = [part.strip() for part in keep.split(",") if part.strip()]
    result: dict[str, Any] = {"scheme": scheme}
    costs = _part_costs(model, scheme, material) if sensitivity or max_wer_increase is not None else []
    if max_wer_increase is None:
        quantize_file(model, out, scheme, kept)
    else:
        kept = report.quantize_within(model, out, scheme, material, max_wer_increase / 100, costs, kept)
        print(f"kept from int8, to hold the WER within {max_wer_increase:g} points: {', '.join(kept) or 'nothing'}")
    before, after = model.stat().st_size, out.stat().st_size
    result |= {"keep": kept, "bytes_before": before, "bytes_after": after, "ratio": before / after}
    if costs:
        result["sensitivity"] = [dataclasses.asdict(cost) for cost in costs]
    print(f"{megabytes(before)} -> {megabytes(after)}: {before / after:.2f} times smaller")
    if utterances:
        result |= _before_and_after(model, out, utterances, batch_size)
    if json_file:
        write_json(json_file, result)


def _part_costs(model: Path, scheme: str, material: Any) -> list[Any]:
    """Measured and shown."""
    from ..evaluation.sensitivity import measure_parts

    with progress_bar("Measuring parts") as progress:
        costs = measure_parts(model, scheme, material, progress)
    rows = [
        [cost.part, f"{cost.parameters:,}", f"{cost.logit_error:.4f}"]
        + ([] if cost.wer_increase is None else [f"{100 * cost.wer_increase:+.2f}"])
        for cost in costs
    ]
    columns = ["part", "parameters", "logit error"] + ([] if material.texts is None else ["WER, points"])
    print_table(f"int8 in one part only: {model}", columns, rows)
    return costs


def _before_and_after(model: Path, out: Path, utterances: Any, batch_size: int) -> dict[str, Any]:
    """The WER of both files and their difference, shown and as JSON."""
    from ..evaluation.evaluate import evaluate as measure
    from ..evaluation.wer import compare
    from ..runtime.recognizer import Recognizer

    reports = []
    for recognizer in (Recognizer.load(model, precision="fp32"), Recognizer.load(out, precision="int8")):
        with progress_bar(f"Evaluating in {recognizer.precision}") as progress:
            reports.append(measure(recognizer, utterances, batch_size, progress=progress))
    difference = compare(reports[0].word_counts, reports[1].word_counts)
    print(f"WER {reports[0].wer.percent()} -> {reports[1].wer.percent()}, difference {difference.percent()}")
    before, after = (report.to_dict() for report in reports)
    return {"before": before, "after": after, "wer_difference": dataclasses.asdict(difference)}
