"""The verb `search`."""

from typing import Annotated

import typer

from .console import print_lines, print_table, progress_bar
from .options import (
    BatchSizeOption,
    DataArgument,
    DeviceOption,
    EngineOption,
    JsonOption,
    ModelArgument,
    PrecisionOption,
    SubsetOption,
    ThreadsOption,
)


def search(
    model: ModelArgument,
    data: DataArgument,
    subset: SubsetOption = "dev",
    squeeze: Annotated[int, typer.Option(min=1, max=16, help="Squeeze factor of all points.")] = 1,
    factors: Annotated[
        str, typer.Option(metavar="FACTORS", help="Pooling factors to choose from, such as 1,2,3.")
    ] = "1,2",
    budget: Annotated[
        float,
        typer.Option(min=0, max=1, metavar="SHARE", help="End at this share of the compute without pooling."),
    ] = 0.0,
    precision: PrecisionOption = "auto",
    engine: EngineOption = "auto",
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    batch_size: BatchSizeOption = 8,
    json_file: JsonOption = None,
) -> None:
    """Search for compression points with pooling factors of their own for each layer.

    Prints which layers bear pooling, and the points of a greedy search. Compare them on other data with `sweep
    --points`.
    """
    from ..data.manifest import read_manifest
    from ..errors import InputError
    from ..evaluation.point_search import layer_table, search_points, search_table
    from ..files import write_json
    from ..model_file.points import untrained_warning
    from ..runtime.recognizer import Recognizer

    try:
        pools = [int(factor) for factor in factors.split(",")]
    except ValueError:
        raise InputError(f"--factors is {factors!r}; it must be whole numbers such as 1,2,3") from None
    utterances = read_manifest(data, subset)
    recognizer = Recognizer.load(model, engine=engine, precision=precision, device=device, threads=threads)
    with progress_bar("Searching") as progress:
        found = search_points(
            recognizer, utterances, squeeze, pools, budget=budget, batch_size=batch_size, progress=progress
        )
    print_table("Pooling of single layers", *layer_table(found))
    print_table(f"Search on {subset}", *search_table(found))
    print_lines([f"Loss: CTC loss per output unit, in nats, over {found.utterances} utterances."])
    if message := untrained_warning(recognizer.header, found.steps[0].point if found.steps else found.start.point):
        print_lines([f"Note: {message}."])
    if json_file:
        write_json(json_file, {"model": str(model), "data": str(data), "subset": subset} | found.to_dict())
