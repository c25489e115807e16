"""The verb `evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..evaluation.report import megabytes
from .console import print_message, print_table, progress_bar
from .decoding import decoder_name, set_decoder
from .options import (
    BatchSizeOption,
    BeamOption,
    BeamThresholdOption,
    BudgetOption,
    CacheOption,
    DataArgument,
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
    SubsetOption,
    ThreadsOption,
    WordScoreOption,
    seed_option,
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


def evaluate(
    model: ModelArgument,
    data: DataArgument,
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
    engine: EngineOption = "auto",
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    streams: StreamsOption = None,
    cache: CacheOption = True,
    batch_size: BatchSizeOption = 8,
    seed: Annotated[int, seed_option("the bootstrap")] = 0,
    shard: ShardOption = None,
    out: ShardFolderOption = None,
    alignment_file: Annotated[
        Path | None,
        typer.Option("--alignment", metavar="FILE", help="Write reference and hypothesis of each utterance, aligned."),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Measure WER and CER with 95% bootstrap intervals, the real-time factor and peak memory."""
    from ..data.manifest import read_manifest
    from ..evaluation.evaluate import alignment_text
    from ..evaluation.evaluate import evaluate as measure
    from ..files import write_json, write_text

    place = shard_in_folder(shard, out)
    if place and (alignment_file or json_file):
        raise typer.BadParameter("goes without --alignment and --json; give --json to `merge`", param_hint="--shard")
    utterances = read_manifest(data, subset)
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
        streams=streams_for(streams, len(utterances), threads),
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
        references = {utterance.path: utterance.text for utterance in utterances}
        job: dict[str, Any] = {"verb": "evaluate", "model": str(model), "model_digest": model_digest(model)}
        job |= {"decoder": decoder, "data": str(data), "subset": subset, "seed": seed}
        done = transcribe_shard(
            recognizer,
            chosen,
            [utterance.path for utterance in utterances],
            place,
            job,
            lambda path, result: describe_transcript(path, result) | {"reference": references[path]},
            batch_size,
        )
        print_message(f"shard {place[0]}: {len(done)} utterances; `w2v-compress merge {place[1]}` joins all shards")
        return
    with progress_bar("Evaluating") as progress:
        report = measure(recognizer, utterances, batch_size, point=chosen, seed=seed, progress=progress)
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
        ["engine", f"{recognizer.engine.name}, {recognizer.engine.precision}"],
        ["machine", f"{report.machine['processor']}, {report.machine['threads']} threads"],
    ]
    print_table(f"{model} on {subset}", ["", ""], rows)
    if alignment_file:
        write_text(alignment_file, alignment_text(report, utterances))
    if json_file:
        settings = {"model": str(model), "data": str(data), "subset": subset, "precision": recognizer.engine.precision}
        write_json(json_file, settings | {"decoder": decoder} | report.to_dict())
