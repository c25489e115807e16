"""Helpers of the verbs that take `--shard`: one part of the work, which goes on where it was killed."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, prefixed
from ..shards import Journal, Shard
from .console import print_message, printing_warnings, progress_bar

if TYPE_CHECKING:
    from ..nn.compression import CompressionPoint
    from ..runtime.recognizer import Recognizer, Transcript

ShardOption = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Only the I-th of N parts, such as 3/8; goes on where it was killed. `merge` joins the parts.",
    ),
]
ShardFolderOption = Annotated[
    Path | None, typer.Option("--out", metavar="FOLDER", help="Folder for the results of the parts, with --shard.")
]


def parse_shard(text: str | None) -> Shard | None:
    """Parse the value of `--shard`. Raises `InputError` for an invalid one."""
    if text is None:
        return None
    with prefixed("--shard"):
        return Shard.parse(text)


def shard_in_folder(text: str | None, folder: Path | None) -> tuple[Shard, Path] | None:
    """Return the values of `--shard` and `--out`, or None without them.

    Raises:
        typer.BadParameter: Only one of them is given.
        InputError: The shard is invalid.
    """
    if (text is None) != (folder is None):
        raise typer.BadParameter("give both --shard and --out, or none of them")
    shard = parse_shard(text)
    return None if shard is None or folder is None else (shard, folder)


def transcribe_shard(
    recognizer: "Recognizer",
    point: "CompressionPoint",
    audio: Sequence[Path],
    place: tuple[Shard, Path],
    job: Mapping[str, Any],
    describe: Callable[[Path, "Transcript | InputError"], dict[str, Any]],
    batch_size: int,
) -> list[dict[str, Any]]:
    """Transcribe the files of a shard that its journal does not have yet, and return all results of the shard.

    Args:
        recognizer: The recognizer.
        point: The compression point.
        audio: The files of all shards.
        place: The shard, and the folder of its journal.
        job: What the job does besides the files and the point.
        describe: Returns the result of a file as JSON values.
        batch_size: Passed to `Recognizer.recognize`.
    """
    shard, folder = place
    whole = {"point": str(point), "files": len(audio), "digest": _digest(map(str, audio))} | dict(job)
    files = shard.of(audio)
    with Journal(folder, shard, whole, len(files)) as journal, progress_bar(f"Shard {shard}") as progress:
        remaining = files[len(journal.results) :]
        transcripts = recognizer.recognize(remaining, batch_size=batch_size, point=point)
        with printing_warnings():
            for path, result in zip(remaining, transcripts, strict=True):
                if isinstance(result, InputError):
                    print_message(str(result))
                journal.append(describe(path, result))
                progress(len(journal.results), journal.total)
        return journal.results


def model_digest(path: Path) -> str:
    """Return a digest of the header and the size of a model file."""
    from ..model_file.tensor_file import read_header

    return _digest([read_header(path).to_json(), str(path.stat().st_size)])


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(json.dumps(text).encode())
    return digest.hexdigest()[:16]


def describe_transcript(path: Path, result: "Transcript | InputError") -> dict[str, Any]:
    """Return the transcript of a file, or why there is none, as JSON values."""
    if isinstance(result, InputError):
        return {"file": str(path), "error": str(result)}
    return {
        "file": str(path),
        "text": result.text,
        "words": [dataclasses.asdict(word) for word in result.words],
        "audio_seconds": result.audio_seconds,
        "compute_seconds": result.compute_seconds,
    }
