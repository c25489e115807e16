"""Arguments and options that several verbs share.

A constant is an option with the same help for every verb; a function makes an option whose help depends on the verb.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..model_file.shipped import find_model
from ..runtime.engines.names import EngineName
from ..runtime.precision import Precision

ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        callback=find_model,
        help="Model file (.safetensors) written by `w2v-compress export`, or the name of a shipped model "
        "(`w2v-compress models`).",
    ),
]
DataArgument = Annotated[
    Path, typer.Argument(metavar="DATA", help="Folder of manifests written by `w2v-compress prepare`.")
]
SubsetOption = Annotated[str, typer.Option(metavar="NAME", help="Name of the manifest in DATA to read.")]

PointOption = Annotated[
    str | None,
    typer.Option(
        metavar="S,Q,K",
        help="Compression point to run at: squeeze factor, query pooling, key-value pooling "
        "(default: the model's own point).",
    ),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="X",
        help="Run at the most accurate compression point of the stored sweep with a real-time factor of at most X.",
    ),
]
IncreaseOption = Annotated[
    float | None,
    typer.Option(
        metavar="Y",
        help="Run at the fastest compression point of the stored sweep within Y percentage points (absolute WER) of "
        "the least compressed one.",
    ),
]
StrictOption = Annotated[
    bool,
    typer.Option("--strict", help="Reject a compression point that the model was not trained for; otherwise warn."),
]

PrecisionOption = Annotated[
    Precision,
    typer.Option(
        help="Precision of inference. auto: int8 for an int8 model, else bf16 if it is faster on the device, else fp32."
    ),
]
EngineOption = Annotated[
    EngineName,
    typer.Option(
        help="Engine that computes the network. auto: openvino on a CPU, torch on a GPU and for int8 models that were "
        "not calibrated."
    ),
]
CacheOption = Annotated[
    bool, typer.Option("--cache/--no-cache", help="Keep compiled graphs on disk, which makes the next start faster.")
]
StreamsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Utterances that the openvino engine computes at a time, sharing the threads "
        "(default: as many as threads for several utterances, else 1).",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="Device to compute on: cpu, cuda or cuda:N.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Number of CPU threads (default: the available cores).")]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Number of utterances in a batch.")]

LmOption = Annotated[
    Path | None,
    typer.Option(
        "--lm", metavar="FILE", help="Use beam search with this n-gram language model (ARPA or KenLM binary)."
    ),
]
LexiconOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Use beam search restricted to these words, one per line, optionally with their spelling in units "
        "(default: the words of an ARPA file).",
    ),
]
BeamOption = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Use beam search with N hypotheses per frame (default: 100 with --lm or --lexicon)."
    ),
]
BeamThresholdOption = Annotated[
    float | None,
    typer.Option(metavar="X", help="Drop hypotheses that score more than X below the best one (default: 25)."),
]
LmWeightOption = Annotated[
    float | None,
    typer.Option(metavar="X", help="Weight of the language model's log10 probabilities (default: 2)."),
]
WordScoreOption = Annotated[
    float | None, typer.Option(metavar="X", help="Score added for each word in beam search (default: 0).")
]

JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results to FILE as JSON.")]
MarkdownOption = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE", help="Write the tables to FILE as Markdown.")
]


def data_option(purpose: str) -> Any:
    """Make the option `--data` of a verb that can work without data; `purpose` says what the data is used for."""
    return typer.Option("--data", metavar="DATA", help=f"Folder of manifests written by `prepare`, to {purpose}.")


def plot_option(content: str) -> Any:
    """Make the option `--plot`; `content` says what is drawn."""
    return typer.Option("--plot", metavar="FILE", help=f"Draw {content} to FILE as PNG.")


def points_option(default: str) -> Any:
    """Make the option `--points`; `default` says which points are measured without it."""
    return typer.Option(
        "--points",
        metavar="'S,Q,K ...'",
        help=f"Compression points to measure, separated by spaces (default: {default}).",
    )


def repeats_option(subject: str, at_least: int) -> Any:
    """Make the option `--repeats`; `subject` says what is run."""
    return typer.Option(
        "--repeats", min=at_least, help=f"Interleaved timed runs of each {subject}; the median is reported."
    )


def seed_option(purpose: str) -> Any:
    """Make the option `--seed`; `purpose` says what is random."""
    return typer.Option("--seed", help=f"Random seed for {purpose}.")
