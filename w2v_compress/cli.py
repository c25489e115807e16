"""The command line `w2v-compress`: one function a command, which imports what it needs, so that --help is quick."""

import dataclasses
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .cli_benchmark import benchmark
from .cli_export import export, import_folder
from .cli_options import BatchSizeOption, JsonOption, ModelArgument, SubsetOption
from .cli_recognition import evaluate, print_stored_sweep, sweep, transcribe
from .cli_tables import tables
from .console import megabytes, print_table, progress_bar
from .errors import InputError

app = typer.Typer(
    name="w2v-compress",
    help="Compress wav2vec 2.0 speech recognizers, and run them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(tables, name="tables")


def main() -> None:
    """The console script. Wrong input is one line on standard error and exit status 1; wrong usage is status 2."""
    try:
        app()
    except InputError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    print(f"w2v-compress: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compress wav2vec 2.0 speech recognizers, and run them."""


@app.command("user-dir")
def user_dir() -> None:
    """Print the absolute path for fairseq's `common.user_dir=`."""
    print(_package_folder())


@app.command("config-dir")
def config_dir() -> None:
    """Print the absolute path of the recipes, for `--config-dir` with /pretraining, /finetuning or /distillation."""
    inside = _package_folder() / "configs"  # of a wheel; a clone has it beside the package
    print(inside if inside.is_dir() else _package_folder().parent / "configs")


@app.command()
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
    from .data.prepare import prepare as run
    from .files import write_json

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
        progress=sys.stderr.isatty(),
    )
    print(report.closing_line())
    if json_file:
        write_json(json_file, dataclasses.asdict(report))


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False}
)
def train(context: typer.Context) -> None:
    """Train with fairseq: the arguments of fairseq-hydra-train, and `model=NAME` works for our models too."""
    from .extras import require_fairseq

    require_fairseq("train")
    from fairseq_cli import hydra_train
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    _register_plugin()
    hydra_train.pre_main = _train_registered
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else hydra turns our one line into a cut traceback
    sys.argv = ["fairseq-hydra-train", *context.args]
    try:
        hydra_train.cli_main()
    except AssertionError as error:
        if "Must specify batch size" not in str(error):
            raise
        raise InputError(
            "train: the size of a batch is missing: give dataset.max_tokens=SAMPLES or dataset.batch_size=N, or a yaml "
            "with --config-dir and --config-name"
        ) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"train: {_plainly(str(error))}") from error


@app.command()
def info(model: ModelArgument, json_file: JsonOption = None) -> None:
    """Show what is in a model file."""
    from .files import write_json
    from .runtime.model_file import describe_model, read_header

    description, header = describe_model(model), read_header(model)
    architecture = description["architecture"]
    rows = {
        "parameters": f"{description['parameters']:,}",
        "size": megabytes(description["bytes"]),
        "precision": description["precision"],
        "units": f"{len(description['units']['symbols'])}, {description['units']['kind']}",
        "normalize": description["normalize"],
        "sample rate": f"{description['sample_rate']} Hz",
        "trained for": header.trained_points,
        "runs at": str(header.point),
    }
    print_table(str(model), ["", ""], [[name, str(value)] for name, value in (rows | architecture).items()])
    if header.sweep is not None:
        print_stored_sweep(header.sweep)
    if json_file:
        write_json(json_file, description)


@app.command()
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
    from .data.manifest import read_manifest
    from .evaluation import sensitivity as report
    from .files import write_json
    from .runtime.model_file import quantize_file

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


for command in (export, transcribe, evaluate, sweep, benchmark):
    app.command()(command)
app.command("import")(import_folder)


def _train_registered(configuration: Any, **options: Any) -> None:
    """fairseq's training; the processes that it starts on each GPU register the plugin by this."""
    from fairseq_cli.train import main as fairseq_train

    _register_plugin()
    fairseq_train(configuration, **options)


def _plainly(error: str) -> str:
    """What hydra and OmegaConf say of a setting that is missing, in terms of the command line."""
    if missing := re.search(r"Missing mandatory value: ([\w.]+)", error):
        return f"{missing[1]} is missing: give {missing[1]}=..."
    if absent := re.search(r"Error trying to access (\w+)\.(\w+): node `\1` is not a container", error):
        group, name = absent.groups()
        asking = re.search(r"full_key: ([\w.]+)", error)
        taken = f", and {asking[1]} is taken from {group}.{name}" if asking else ""
        example = " such as task=compressed_finetuning task.data=FOLDER" if group == "task" else f" {group}=NAME"
        return f"no {group} is chosen{taken}: give one,{example}, or a yaml with --config-dir and --config-name"
    return error


def _register_plugin() -> None:
    """Import all that fairseq would from `common.user_dir`, which it does not do for a package already imported."""
    import importlib

    for kind in ("models", "criterions", "tasks"):
        for file in sorted((_package_folder() / kind).glob("[!_]*.py")):
            importlib.import_module(f"{__package__}.{kind}.{file.stem}")


def _package_folder() -> Path:
    return Path(__file__).resolve().parent


def _part_costs(model: Path, scheme: str, material: Any) -> list[Any]:
    """Measured and shown."""
    from .evaluation.sensitivity import measure_parts

    with progress_bar("Measuring parts", 1) as advance:
        costs = measure_parts(model, scheme, material, lambda done, total: advance(done / total))
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
    from .evaluation.evaluate import evaluate as measure
    from .evaluation.wer import compare
    from .runtime.recognizer import Recognizer

    reports = []
    for recognizer in (Recognizer.load(model, precision="fp32"), Recognizer.load(out, precision="int8")):
        with progress_bar(f"Evaluating in {recognizer.precision}", len(utterances)) as advance:
            reports.append(measure(recognizer, utterances, batch_size, progress=advance))
    difference = compare(reports[0].word_counts, reports[1].word_counts)
    print(f"WER {reports[0].wer.percent()} -> {reports[1].wer.percent()}, difference {difference.percent()}")
    before, after = (report.to_dict() for report in reports)
    return {"before": before, "after": after, "wer_difference": dataclasses.asdict(difference)}
