"""The verb `models`."""

from ..evaluation.report import megabytes
from .console import print_table
from .options import JsonOption


def models(json_file: JsonOption = None) -> None:
    """List the models that come with this package; other commands and `w2v_compress.load` take their names as MODEL."""
    from ..files import write_json
    from ..model_file.shipped import shipped_folder, shipped_models
    from ..model_file.tensor_file import describe_model, read_header

    described, rows = {}, []
    for name, path in shipped_models().items():
        model = described[name] = describe_model(path)
        sizes = [f"{model['parameters'] / 1e6:.1f}M", megabytes(model["bytes"]), model["precision"]]
        rows.append([name, *sizes, read_header(path).describe_space()])
    print_table("Shipped models", ["name", "parameters", "size", "precision", "points"], rows)
    print(f"files and model cards: {shipped_folder()}")
    if json_file:
        write_json(json_file, described)
