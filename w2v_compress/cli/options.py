"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from ..runtime.precision import Precision

ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="A .safetensors file written by `export`.")]
JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results as JSON too.")]
PrecisionOption = Annotated[
    Precision, typer.Option(help="auto: int8 for an int8 file, else bf16 where the device has units for it, else fp32.")
]
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
LmOption = Annotated[
    Path | None,
    typer.Option("--lm", metavar="FILE", help="Search with this n-gram language model: ARPA or KenLM binary."),
]
LexiconOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Words to write, one a line, spelled in units or not; an ARPA file has its own."),
]
BeamOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Beam search with so many hypotheses; 100 with --lm or --lexicon."),
]
BeamThresholdOption = Annotated[
    float | None, typer.Option(metavar="X", help="Drop hypotheses that score X below the best.  [default: 25]")
]
LmWeightOption = Annotated[
    float | None, typer.Option(metavar="X", help="Of the language model's log10-probabilities.  [default: 2]")
]
WordScoreOption = Annotated[
    float | None, typer.Option(metavar="X", help="Added for each word that beam search writes.  [default: 0]")
]
