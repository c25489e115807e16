"""Convert a corpus in shards, and write its manifests once all are there."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..progress import Progress
from ..shards import Journal, Merged, Shard
from .conversion import Converter, Rejection
from .corpora import Recording
from .manifest import Utterance, fits_manifest, is_split_name
from .prepare_outputs import PrepareReport, report, write_outputs
from .units import Units

SHARDS = "shards"
"""Folder in the output folder for the results of shards."""


def convert_shard(
    shard: Shard,
    job: dict[str, Any],
    converter: Converter,
    recordings: Sequence[Recording],
    rejections: Sequence[Rejection],
    workers: int | None,
    progress: Progress,
) -> PrepareReport:
    """Convert the recordings of a shard that its journal does not have yet; the first shard holds `rejections` too."""
    early = [dataclasses.asdict(rejection) for rejection in rejections] if shard.index == 1 else []
    targets = shard.of(converter.targets(recordings))
    recordings = shard.of(recordings)
    with Journal(Path(job["out"]) / SHARDS, shard, job, len(early) + len(recordings)) as journal:
        for result in early[len(journal.results) :]:
            journal.append(result)
        done = len(journal.results) - len(early)
        outcomes = converter.run(recordings[done:], targets[done:], workers)
        for recording, outcome in zip(recordings[done:], outcomes, strict=True):
            result = dataclasses.asdict(outcome)
            if isinstance(outcome, Utterance):
                result |= {"path": str(outcome.path), "split": recording.split}
            journal.append(result)
            progress(len(journal.results), journal.total)
        return report(job["out"], *_parse_results(journal.results, job["splits"]))


def merge_shards(merged: Merged, folder: Path) -> PrepareReport:
    """Write the manifests of a corpus that was prepared in shards, whose journals are in `folder`.

    Result and errors are those of `prepare`. Raises `InputError` too if the journals were not written by `prepare`.
    """
    job = merged.job
    out, units = Path(job["out"]), Units.from_dict(job["units"])
    if out.resolve() != folder.resolve().parent:
        raise InputError(f"{folder}: holds shards of {out}; it must be in this folder")
    if not all(map(is_split_name, job["splits"])) or not isinstance(job["strict"], bool):
        raise InputError(f"{folder}: its job has no valid `splits` and `strict`")
    for result in merged.results:
        if "split" in result:
            _check_utterance(result, job["splits"], units, folder)
    return write_outputs(out, *_parse_results(merged.results, job["splits"]), units, strict=job["strict"])


def _check_utterance(result: dict[str, Any], splits: Sequence[str], units: Units, folder: Path) -> None:
    """Raise `InputError` unless a manifest can hold the utterance that a journal in `folder` has."""
    path, samples, text = result["path"], result["samples"], result["text"]
    if not fits_manifest(Path(path)) or type(samples) is not int or samples < 1 or result["split"] not in splits:
        raise InputError(f"{folder}: the utterance {path[:80]!r} has no valid path, samples and split")
    if text.split() != text.split(" ") or units.unknown_characters(text):
        raise InputError(f"{folder}: the utterance {path[:80]!r} has the text {text[:80]!r}, which is not in the units")


def _parse_results(
    results: Sequence[dict[str, Any]], splits: Sequence[str]
) -> tuple[dict[str, list[Utterance]], list[Rejection]]:
    """Return the utterances of each split, and the rejections, in journals of shards."""
    accepted: dict[str, list[Utterance]] = {split: [] for split in splits}
    rejections = []
    for result in results:
        if "split" in result:
            utterance = Utterance(Path(result["path"]), result["samples"], result["text"])
            accepted[result["split"]].append(utterance)
        else:
            rejections.append(Rejection(**result))
    return accepted, rejections
