"""The verb `transcribe`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, readable
from ..evaluation.report import megabytes
from .console import print_message, printing_warnings, progress_bar
from .decoding import STANDARD_INPUT, check_ctm_names, print_words, recording_name, set_decoder, write_ctm
from .options import (
    BatchSizeOption,
    BeamOption,
    BeamThresholdOption,
    BudgetOption,
    CacheOption,
    DeviceOption,
    EngineOption,
    IncreaseOption,
    JsonOption,
    LexiconOption,
    LmOption,
    LmWeightOption,
    ModelArgument,
    PointOption,
    PrecisionOption,
    StreamsOption,
    StrictOption,
    ThreadsOption,
    WordScoreOption,
)
from .points import load_at_point, streams_for
from .sharding import (
    ShardFolderOption,
    ShardOption,
    describe_transcript,
    model_digest,
    shard_in_folder,
    transcribe_shard,
)

if TYPE_CHECKING:
    from ..runtime.decoding import Word
    from ..runtime.decoding.words import LogProbs


def transcribe(
    model: ModelArgument,
    audio: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[AUDIO...]", help="Audio files of any format that libsndfile reads; - for standard input."
        ),
    ] = None,
    list_file: Annotated[
        Path | None, typer.Option("--list", metavar="FILE", help="Read the paths of audio files from FILE, one a line.")
    ] = None,
    emissions: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write log-probabilities (frames, units) of each file to DIR/NAME.npy."),
    ] = None,
    timestamps: Annotated[
        bool, typer.Option("--timestamps", help="Print one line per word: start and end in seconds, and the word.")
    ] = False,
    ctm: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write words with times in NIST's CTM format.")
    ] = None,
    lm: LmOption = None,
    lexicon: LexiconOption = None,
    beam: BeamOption = None,
    beam_threshold: BeamThresholdOption = None,
    lm_weight: LmWeightOption = None,
    word_score: WordScoreOption = None,
    point: PointOption = None,
    budget_rtf: BudgetOption = None,
    max_wer_increase: IncreaseOption = None,
    strict: StrictOption = False,
    precision: PrecisionOption = "auto",
    engine: EngineOption = "auto",
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    streams: StreamsOption = None,
    cache: CacheOption = True,
    batch_size: BatchSizeOption = 8,
    shard: ShardOption = None,
    out: ShardFolderOption = None,
    json_file: JsonOption = None,
) -> None:
    """Transcribe audio files, and print one line of text per file.

    A file that cannot be read prints an error, the others are still transcribed, and the exit status is 1.
    """
    from ..evaluation.machine import describe_engine, peak_memory
    from ..files import write_json

    audio = _audio_files(audio or [], list_file)
    place = shard_in_folder(shard, out)
    if place and (emissions or timestamps or ctm or json_file or STANDARD_INPUT in audio):
        raise typer.BadParameter("goes without --emissions, --timestamps, --ctm, --json and -", param_hint="--shard")
    targets = _emission_files(audio, emissions)
    if ctm:
        check_ctm_names(audio)
    recognizer, chosen = load_at_point(
        model,
        point=point,
        budget_rtf=budget_rtf,
        max_wer_increase=max_wer_increase,
        strict=strict,
        precision=precision,
        engine=engine,
        device=device,
        threads=threads,
        streams=streams_for(streams, len(audio), threads),
        cache=cache,
    )
    decoder = set_decoder(
        recognizer,
        lm=lm,
        lexicon=lexicon,
        beam=beam,
        beam_threshold=beam_threshold,
        lm_weight=lm_weight,
        word_score=word_score,
    )
    if place:
        job = {"verb": "transcribe", "model": model_digest(model), "decoder": decoder}
        done = transcribe_shard(recognizer, chosen, audio, place, job, describe_transcript, batch_size)
        print_message(f"shard {place[0]}: {len(done)} files; `w2v-compress merge {place[1]}` joins all shards")
        if any("error" in result for result in done):
            raise typer.Exit(1)
        return
    words: dict[Path, tuple[Word, ...]] = {}
    results: list[dict[str, Any]] = []
    sources = (sys.stdin.buffer if path == STANDARD_INPUT else path for path in audio)
    transcripts = recognizer.recognize(sources, batch_size=batch_size, point=chosen)
    with progress_bar("Transcribing") as progress, printing_warnings():
        for path, result in zip(audio, transcripts, strict=True):
            progress(len(results) + 1, len(audio))
            results.append(describe_transcript(path, result))
            if isinstance(result, InputError):
                print_message(str(result))
                continue
            words[path] = result.words
            if timestamps:
                print_words(path, result.words)
            else:
                print(result.text, flush=True)
            if targets:
                _write_emissions(targets[path], result.log_probs)
    peak = peak_memory(device)
    print_message(f"peak memory {megabytes(peak)}")
    if ctm:
        write_ctm(ctm, words)
    if json_file:
        report: dict[str, Any] = {"model": str(model), "precision": recognizer.engine.precision, "point": str(chosen)}
        report |= {"decoder": decoder, "peak_memory_bytes": peak, "batch_size": batch_size}
        write_json(json_file, report | {"machine": describe_engine(recognizer.engine), "transcripts": results})
    if any("error" in result for result in results):
        raise typer.Exit(1)


def _audio_files(audio: list[Path], list_file: Path | None) -> list[Path]:
    """Return the files given as arguments, or those in the list.

    Raises:
        typer.BadParameter: Both or none are given, or standard input is given twice.
        InputError: The list cannot be read or has no path.
    """
    if bool(audio) == (list_file is not None):
        raise typer.BadParameter("give audio files or --list", param_hint="AUDIO")
    if audio.count(STANDARD_INPUT) > 1:
        raise typer.BadParameter("standard input can only be read once", param_hint="AUDIO")
    if list_file is None:
        return audio
    with readable(list_file):
        lines = os.fsdecode(list_file.read_bytes()).splitlines()
    paths = [Path(line) for line in lines if line.strip()]
    if not paths:
        raise InputError(f"{list_file}: has no path; it must have one on each line")
    return paths


def _emission_files(audio: list[Path], folder: Path | None) -> dict[Path, Path]:
    """Return the output path of each file's log-probabilities, and create the folder.

    Raises:
        InputError: Two files have the same output path.
    """
    if folder is None:
        return {}
    targets = {path: folder / f"{recording_name(path)}.npy" for path in audio}
    sources = {target: path for path, target in targets.items()}
    for path, target in targets.items():
        if sources[target] != path:
            raise InputError(f"--emissions: {path} and {sources[target]} would both be written to {target}")
    folder.mkdir(parents=True, exist_ok=True)
    return targets


def _write_emissions(path: Path, log_probs: "LogProbs") -> None:
    """Write log-probabilities (frames, units) as a .npy file."""
    import numpy as np

    from ..files import replacing

    with replacing(path) as temporary:
        np.save(temporary, log_probs)
