"""The verb `prepare`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from .console import progress_bar
from .options import JsonOption


def prepare(
    corpus: Annotated[Literal["csv", "librispeech", "fsdd"], typer.Argument(help="The kind of corpus.")],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Its folder, or the CSV file (path, text, split).")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the manifests.")],
    units: Annotated[
        Literal["letter", "sentencepiece"], typer.Option(help="What the recognizer is to write.")
    ] = "letter",
    vocab_size: Annotated[int | None, typer.Option(min=1, help="Sentencepiece pieces to learn.")] = None,
    dictionary: Annotated[
        Path | None, typer.Option("--dict", metavar="FILE", help="Use the units of this dict.ltr.txt or dict.spm.txt.")
    ] = None,
    max_seconds: Annotated[float, typer.Option(help="Longer utterances are refused.")] = 40.0,
    audio_format: Annotated[Literal["flac", "wav"], typer.Option(help="Of audio that has to be converted.")] = "flac",
    join: Annotated[
        str | None, typer.Option(metavar="LOW:HIGH", help="fsdd: join so many recordings of a speaker, as 3:7.")
    ] = None,
    join_count: Annotated[int | None, typer.Option(min=1, help="fsdd: how many strings to make.")] = None,
    seed: Annotated[int, typer.Option(help="Of the joining.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if anything is refused.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; by default one a core of this process.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Turn a corpus into fairseq manifests at 16 kHz; what is refused, and why, goes to rejected.tsv."""
    from ..data.prepare import prepare as run
    from ..files import write_json

    with progress_bar("Preparing") as progress:
        report = run(
            corpus,
            source,
            out,
            units=units,
            vocab_size=vocab_size,
            dictionary=dictionary,
            max_seconds=max_seconds,
            audio_format=audio_format,
            join=join,
            join_count=join_count,
            seed=seed,
            strict=strict,
            workers=workers,
            progress=progress,
        )
    print(report.closing_line())
    if json_file:
        write_json(json_file, dataclasses.asdict(report))
