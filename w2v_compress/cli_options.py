"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from .runtime import Precision

ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="A .safetensors file written by `export`.")]
JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results as JSON too.")]
PrecisionOption = Annotated[Precision, typer.Option(help="Of the computation; auto is what the file holds.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads; by default torch's choice.")]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Utterances that the network takes at once.")]
SubsetOption = Annotated[str, typer.Option(metavar="NAME", help="Which manifest of DATA.")]
PointOption = Annotated[
    str | None,
    typer.Option(metavar="S,Q,K", help="Compression point: squeeze, query, key-value pooling; else the model's own."),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        min=0, metavar="X", help="The most accurate point of the stored sweep with at most this real-time factor."
    ),
]
IncreaseOption = Annotated[
    float | None,
    typer.Option(
        metavar="Y", help="The fastest point of the stored sweep with at most so many points of WER above its largest."
    ),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Refuse a point that the model was not trained for, rather than warn.")
]
