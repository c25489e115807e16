"""The verb `info`."""

from ..evaluation.report import megabytes
from .console import print_table
from .options import JsonOption, ModelArgument
from .sweep import print_stored_sweep


def info(model: ModelArgument, json_file: JsonOption = None) -> None:
    """Show the size, units, architecture and stored sweep of a model file."""
    from ..files import write_json
    from ..model_file.tensor_file import describe_model, read_header

    description, header = describe_model(model), read_header(model)
    architecture = description["architecture"]
    rows = {
        "parameters": f"{description['parameters']:,}",
        "size": megabytes(description["bytes"]),
        "precision": description["precision"],
        "units": f"{len(description['units']['symbols'])}, {description['units']['kind']}",
        "normalize": description["normalize"],
        "sample rate": f"{description['sample_rate']} Hz",
        "trained for": header.describe_space(),
        "runs at": str(header.point),
    }
    print_table(str(model), ["", ""], [[name, str(value)] for name, value in (rows | architecture).items()])
    if header.sweep is not None:
        print_stored_sweep(header.sweep)
    if json_file:
        write_json(json_file, description)
