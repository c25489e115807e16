"""The verb `transcribe`."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..evaluation.report import megabytes
from .console import print_message, printing_warnings, progress_bar
from .decoding import STANDARD_INPUT, check_ctm_names, print_words, recording_name, set_decoder, write_ctm
from .options import (
    BatchSizeOption,
    BeamOption,
    BeamThresholdOption,
    BudgetOption,
    DeviceOption,
    IncreaseOption,
    JsonOption,
    LexiconOption,
    LmOption,
    LmWeightOption,
    ModelArgument,
    PointOption,
    PrecisionOption,
    StrictOption,
    ThreadsOption,
    WordScoreOption,
)
from .points import chosen_point, swept_precision


def transcribe(
    model: ModelArgument,
    audio: Annotated[
        list[Path],
        typer.Argument(
            metavar="AUDIO...", help="Audio files of any format that libsndfile reads; - for standard input."
        ),
    ],
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
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    batch_size: BatchSizeOption = 8,
    json_file: JsonOption = None,
) -> None:
    """Transcribe audio files, and print one line of text per file.

    A file that cannot be read prints an error, the others are still transcribed, and the exit status is 1.
    """
    from ..evaluation.machine import describe_machine, peak_memory
    from ..files import write_json
    from ..runtime.recognizer import Recognizer

    if audio.count(STANDARD_INPUT) > 1:
        raise typer.BadParameter("standard input can only be read once", param_hint="AUDIO")
    targets = _emission_files(audio, emissions)
    if ctm:
        check_ctm_names(audio)
    if budget_rtf is not None or max_wer_increase is not None:
        precision = swept_precision(model, precision)
    recognizer = Recognizer.load(model, precision=precision, device=device, threads=threads)
    chosen = chosen_point(recognizer, model, point, budget_rtf, max_wer_increase, strict)
    decoder = set_decoder(
        recognizer,
        lm=lm,
        lexicon=lexicon,
        beam=beam,
        beam_threshold=beam_threshold,
        lm_weight=lm_weight,
        word_score=word_score,
    )
    words: dict[Path, Any] = {}
    results: list[dict[str, Any]] = []
    failed = False
    sources = (sys.stdin.buffer if path == STANDARD_INPUT else path for path in audio)
    transcripts = recognizer.recognize(sources, batch_size=batch_size, point=chosen)
    with progress_bar("Transcribing") as progress, printing_warnings():
        for path, result in zip(audio, transcripts, strict=True):
            progress(len(results) + 1, len(audio))
            if isinstance(result, InputError):
                failed = True
                print_message(str(result))
                results.append({"file": str(path), "error": str(result)})
                continue
            if timestamps:
                print_words(path, result.words)
            else:
                print(result.text, flush=True)
            if targets:
                _write_emissions(targets[path], result.log_probs)
            words[path] = result.words
            results.append(
                {
                    "file": str(path),
                    "text": result.text,
                    "words": [dataclasses.asdict(word) for word in result.words],
                    "audio_seconds": result.audio_seconds,
                    "compute_seconds": result.compute_seconds,
                }
            )
    peak = peak_memory(device)
    print_message(f"peak memory {megabytes(peak)}")
    if ctm:
        write_ctm(ctm, words)
    if json_file:
        settings: dict[str, Any] = {"model": str(model), "precision": recognizer.precision, "point": str(chosen)}
        settings["decoder"] = decoder
        settings["peak_memory_bytes"] = peak
        settings |= {"batch_size": batch_size, "machine": describe_machine(device), "transcripts": results}
        write_json(json_file, settings)
    if failed:
        raise typer.Exit(1)


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


def _write_emissions(path: Path, log_probs: Any) -> None:
    import numpy as np

    from ..files import replacing

    with replacing(path) as temporary:
        np.save(temporary, log_probs.numpy())
