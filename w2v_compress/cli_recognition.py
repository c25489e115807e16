"""The commands that run a recognizer: transcribe, evaluate and sweep, each at a point of compression."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_decoding import STANDARD_INPUT, check_ctm_names, decoder_name, name_of, print_words, set_decoder, write_ctm
from .cli_options import (
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
    SubsetOption,
    ThreadsOption,
    WordScoreOption,
)
from .console import megabytes, print_table, progress_bar, say, warnings_said
from .errors import InputError


def transcribe(
    model: ModelArgument,
    audio: Annotated[
        list[Path], typer.Argument(metavar="AUDIO...", help="Files that libsndfile reads; - is standard input.")
    ],
    emissions: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write log-probabilities, (frames, units), as DIR/NAME.npy.")
    ] = None,
    timestamps: Annotated[
        bool, typer.Option("--timestamps", help="Print each word on a line of its own: start, end, word.")
    ] = False,
    ctm: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the words with their times in NIST's CTM format.")
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
    """Print the text of each file, one line a file; --json adds timing. A file that cannot be used costs status 1."""
    from .evaluation.machine import describe_machine, peak_memory
    from .files import write_json
    from .runtime.recognizer import Recognizer

    if audio.count(STANDARD_INPUT) > 1:
        raise typer.BadParameter("standard input can be read once", param_hint="AUDIO")
    targets = _emission_files(audio, emissions)
    if ctm:
        check_ctm_names(audio)
    if budget_rtf is not None or max_wer_increase is not None:
        precision = _swept_precision(model, precision)
    recognizer = Recognizer.load(model, precision=precision, device=device, threads=threads)
    chosen = _chosen_point(recognizer, model, point, budget_rtf, max_wer_increase, strict)
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
    with progress_bar("Transcribing", len(audio)) as advance, warnings_said():
        for path, result in zip(audio, transcripts, strict=True):
            advance(len(results) + 1)
            if isinstance(result, InputError):
                failed = True
                say(str(result))
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
    say(f"peak memory {megabytes(peak)}")
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


def evaluate(
    model: ModelArgument,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Manifest folder written by `prepare`.")],
    subset: SubsetOption = "test",
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
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    alignment_file: Annotated[
        Path | None,
        typer.Option("--alignment", metavar="FILE", help="Write each utterance's text under what it should be."),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Measure WER and CER with bootstrap 95% intervals, real-time factor and peak memory."""
    from .data.manifest import read_manifest
    from .evaluation.evaluate import alignment_text
    from .evaluation.evaluate import evaluate as measure
    from .files import write_json, write_text
    from .runtime.recognizer import Recognizer

    utterances = read_manifest(data, subset)
    if budget_rtf is not None or max_wer_increase is not None:
        precision = _swept_precision(model, precision)
    recognizer = Recognizer.load(model, precision=precision, device=device, threads=threads)
    chosen = _chosen_point(recognizer, model, point, budget_rtf, max_wer_increase, strict)
    decoder = set_decoder(
        recognizer,
        lm=lm,
        lexicon=lexicon,
        beam=beam,
        beam_threshold=beam_threshold,
        lm_weight=lm_weight,
        word_score=word_score,
    )
    with progress_bar("Evaluating", len(utterances)) as advance:
        report = measure(recognizer, utterances, batch_size, point=chosen, seed=seed, progress=advance)
    rows = [
        ["WER", report.wer.percent()],
        ["CER", report.cer.percent()],
        ["utterances, words", f"{report.utterances}, {report.words}"],
        [
            "substitutions, deletions, insertions",
            f"{report.substitutions}, {report.deletions}, {report.insertions} words",
        ],
        ["audio", f"{report.audio_seconds:.1f} s"],
        ["real-time factor", f"{report.real_time_factor:.4f} ({report.milliseconds_per_second:.1f} ms a second)"],
        ["peak memory", megabytes(report.peak_memory_bytes)],
        ["compression point", str(report.point)],
        ["decoder", decoder_name(decoder)],
        ["precision", recognizer.precision],
        ["machine", f"{report.machine['processor']}, {report.machine['threads']} threads"],
    ]
    print_table(f"{model} on {subset}", ["", ""], rows)
    if alignment_file:
        write_text(alignment_file, alignment_text(report, utterances))
    if json_file:
        settings = {"model": str(model), "data": str(data), "subset": subset, "precision": recognizer.precision}
        write_json(json_file, settings | {"decoder": decoder} | report.to_dict())


def sweep(
    model: ModelArgument,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Manifest folder written by `prepare`.")],
    subset: SubsetOption = "test",
    points: Annotated[
        str | None, typer.Option(metavar="'S,Q,K ...'", help="These points; by default all that it was trained for.")
    ] = None,
    strict: StrictOption = False,
    repeats: Annotated[int, typer.Option(min=9, help="Timed runs of each point, in turns; the median counts.")] = 9,
    timed_seconds: Annotated[float, typer.Option(min=0, help="Of the subset's audio, for the times.")] = 30.0,
    precision: PrecisionOption = "auto",
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    batch_size: BatchSizeOption = 8,
    seed: Annotated[int, typer.Option(help="Of the bootstrap and of what is timed.")] = 0,
    save: Annotated[bool, typer.Option("--save", help="Store it in MODEL, for budgets to choose by.")] = False,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw WER against time as PNG.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Measure WER, time and multiply-accumulates of a model at its compression points, side by side."""
    from .data.manifest import read_manifest
    from .evaluation import sweep as report_of
    from .files import write_json
    from .nn.compression import parse_points
    from .runtime.model_file import store_sweep
    from .runtime.recognizer import Recognizer

    if plot_file:
        report_of.require_matplotlib()
    utterances = read_manifest(data, subset)
    recognizer = Recognizer.load(model, precision=precision, device=device, threads=threads)
    asked = [_checked_point(recognizer, point, strict) for point in parse_points((points or "").split())]
    report = report_of.sweep(
        recognizer,
        utterances,
        asked,
        batch_size=batch_size,
        repeats=repeats,
        timed_seconds=timed_seconds,
        seed=seed,
    )
    print_table(f"{model} on {subset}", *report_of.rate_table(report))
    print_table("Cost", *report_of.cost_table(report))
    print("\n".join(report_of.notes(report)))
    if save:
        store_sweep(model, report.to_store(subset))
    if plot_file:
        report_of.plot(report, plot_file, f"{model.name} on {subset}")
    if json_file:
        write_json(json_file, {"model": str(model), "data": str(data), "subset": subset} | report.to_dict())


def print_stored_sweep(sweep: Any) -> None:
    """What a model file keeps of a sweep, as a table."""
    rows = [
        [
            str(swept.point),
            f"{100 * swept.wer:.2f}%",
            f"{swept.real_time_factor:.4f}",
            f"{1e-9 * swept.macs_per_second:.2f}",
        ]
        for swept in sweep.points
    ]
    title = f"Sweep on {sweep.subset}, {sweep.precision}: {_place(sweep.machine)}"
    print_table(title, ["point", "WER", "real-time factor", "GMAC per s"], rows)


def _chosen_point(
    recognizer: Any,
    model: Path,
    point: str | None,
    budget_rtf: float | None,
    max_wer_increase: float | None,
    strict: bool,
) -> Any:
    """The point that the options ask for; what there is to say of it goes to standard error, a line each."""
    if sum(option is not None for option in (point, budget_rtf, max_wer_increase)) > 1:
        raise typer.BadParameter("give one of --point, --budget-rtf and --max-wer-increase")
    if budget_rtf is None and max_wer_increase is None:
        return _checked_point(recognizer, point, strict)
    stored = recognizer.header.sweep
    if stored is None:
        raise InputError(
            f"{model}: no sweep is stored to choose a point by: run `w2v-compress sweep MODEL DATA --save`, "
            "or name one with --point"
        )
    if stored.precision != recognizer.precision:
        raise InputError(
            f"{model}: its sweep is of {stored.precision}, and the model is to run in {recognizer.precision}"
        )
    try:
        if max_wer_increase is not None:
            swept = stored.within_increase(max_wer_increase / 100)
        else:
            swept = stored.within_budget(budget_rtf)
            _warn_of_another_machine(stored, str(recognizer.device))
    except InputError as error:
        raise InputError(f"{model}: {error}") from None
    found = f"WER {100 * swept.wer:.2f}% on {stored.subset}, real-time factor {swept.real_time_factor:.4f}"
    say(f"point {swept.point}: {found} in the stored sweep")
    return _checked_point(recognizer, swept.point, strict)


def _swept_precision(model: Path, precision: Any) -> Any:
    """Where the precision is left to us, that of the stored sweep, whose figures choose the point."""
    from .runtime.model_file import read_header

    sweep = read_header(model).sweep
    return sweep.precision if precision == "auto" and sweep is not None else precision


def _warn_of_another_machine(stored: Any, device: str) -> None:
    from .evaluation.machine import describe_machine

    here, there = _place(describe_machine(device)), _place(stored.machine)
    if here != there:
        say(f"the sweep was measured on {there}; here times differ, on {here}")


def _place(machine: Mapping[str, Any]) -> str:
    """What times depend on."""
    processor = machine.get("gpu") or f"{machine.get('processor')}, {machine.get('threads')} threads"
    return f"{processor}, torch {machine.get('torch')}"


def _checked_point(recognizer: Any, point: Any, strict: bool) -> Any:
    """`Recognizer.checked_point`, with its warning as a line on standard error."""
    with warnings_said():
        return recognizer.checked_point(point, strict=strict)


def _emission_files(audio: list[Path], folder: Path | None) -> dict[Path, Path]:
    """Where the log-probabilities of each file go; two files may not go to one place."""
    if folder is None:
        return {}
    targets = {path: folder / f"{name_of(path)}.npy" for path in audio}
    sources = {target: path for path, target in targets.items()}
    for path, target in targets.items():
        if sources[target] != path:
            raise InputError(f"--emissions: {path} and {sources[target]} would both be written to {target}")
    folder.mkdir(parents=True, exist_ok=True)
    return targets


def _write_emissions(path: Path, log_probs: Any) -> None:
    import numpy as np

    from .files import replacing

    with replacing(path) as temporary:
        np.save(temporary, log_probs.numpy())
