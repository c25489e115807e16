"""The verb `merge`."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError, shown
from ..evaluation.report import well_formed
from ..shards import Merged
from ..shards import merge as join
from .console import print_lines, print_message, print_table
from .options import JsonOption


def merge(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of the parts: --out, or OUT/shards of `prepare`.")
    ],
    json_file: JsonOption = None,
) -> None:
    """Join the results of all parts of `prepare`, `transcribe` or `evaluate` with --shard.

    Parts that are missing or not complete are named.
    """
    from ..files import write_json

    merged = join(folder)
    verbs: dict[Any, Callable[[Merged], dict[str, Any]]] = {
        "prepare": partial(_prepared, folder=folder),
        "transcribe": _transcripts,
        "evaluate": _evaluation,
    }
    verb = merged.job.get("verb")
    if not isinstance(verb, str) or verb not in verbs:
        raise InputError(f"{folder}: its job is {verb!r}; it must be one of {', '.join(verbs)}")
    with well_formed(folder):
        report = verbs[verb](merged)
    if json_file:
        write_json(json_file, report)
    if any("error" in result for result in merged.results):
        raise typer.Exit(1)


def _prepared(merged: Merged, folder: Path) -> dict[str, Any]:
    from ..data.prepare_shards import merge_shards

    report = merge_shards(merged, folder)
    print_lines([report.summary()])
    return dataclasses.asdict(report)


def _transcripts(merged: Merged) -> dict[str, Any]:
    for result in merged.results:
        if "error" in result:
            print_message(result["error"])
        else:
            print(shown(result["text"]))
    return merged.job | {"transcripts": merged.results}


def _evaluation(merged: Merged) -> dict[str, Any]:
    from ..evaluation.wer import character_errors, error_rate, word_errors

    errors = [result["error"] for result in merged.results if "error" in result]
    if errors:
        raise InputError(f"{errors[0]} ({len(errors)} of {len(merged.results)} utterances have errors)")
    references, hypotheses = (_column(merged.results, name) for name in ("reference", "text"))
    seed = merged.job["seed"]
    wer, cer = (error_rate(count(references, hypotheses), seed=seed) for count in (word_errors, character_errors))
    audio, compute = (sum(_column(merged.results, f"{name}_seconds")) for name in ("audio", "compute"))
    rows = [
        ["WER", wer.percent()],
        ["CER", cer.percent()],
        ["utterances", str(len(references))],
        ["audio", f"{audio:.1f} s"],
        ["real-time factor", f"{compute / audio:.4f} ({1000 * compute / audio:.1f} ms a second)"],
        ["compression point", merged.job["point"]],
    ]
    print_table(f"{merged.job['model']} on {merged.job['subset']}", ["", ""], rows)
    rates = {"wer": dataclasses.asdict(wer), "cer": dataclasses.asdict(cer)}
    return merged.job | rates | {"audio_seconds": audio, "compute_seconds": compute, "utterances": len(references)}


def _column(results: Sequence[dict[str, Any]], name: str) -> list[Any]:
    return [result[name] for result in results]
