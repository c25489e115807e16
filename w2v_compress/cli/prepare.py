"""The verb `prepare`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from .console import progress_bar
from .options import JsonOption, seed_option
from .sharding import ShardOption, parse_shard


def prepare(
    corpus: Annotated[Literal["csv", "librispeech", "fsdd"], typer.Argument(help="Format of the corpus.")],
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of the corpus, or a CSV file (path, text, split).")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the manifests to.")],
    units: Annotated[Literal["letter", "sentencepiece"], typer.Option(help="Output units.")] = "letter",
    vocab_size: Annotated[int | None, typer.Option(min=1, help="Number of sentencepiece units to learn.")] = None,
    dictionary: Annotated[
        Path | None,
        typer.Option("--dict", metavar="FILE", help="Take the units from this dict.ltr.txt or dict.spm.txt."),
    ] = None,
    max_seconds: Annotated[float, typer.Option(help="Reject utterances longer than this many seconds.")] = 40.0,
    audio_format: Annotated[
        Literal["flac", "wav"],
        typer.Option(help="Format of converted audio. WAV and FLAC files at 16 kHz mono are used in place."),
    ] = "flac",
    join: Annotated[
        str | None,
        typer.Option(metavar="LOW:HIGH", help="fsdd: join LOW to HIGH recordings of a speaker into one, e.g. 3:7."),
    ] = None,
    join_count: Annotated[
        int | None,
        typer.Option(min=1, help="fsdd: number of joined recordings in `train` (default: uses each recording once)."),
    ] = None,
    seed: Annotated[int, seed_option("joining recordings")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if any utterance is rejected.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that convert audio (default: the available cores).")
    ] = None,
    shard: ShardOption = None,
    json_file: JsonOption = None,
) -> None:
    """Convert a corpus to fairseq manifests of 16 kHz audio.

    Rejected utterances are listed with the reason in OUT/rejected.tsv. With --shard no manifest is written: run
    `w2v-compress merge OUT/shards` once all parts are there.
    """
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
            shard=parse_shard(shard),
            progress=progress,
        )
    print(report.summary())
    if json_file:
        write_json(json_file, dataclasses.asdict(report))
