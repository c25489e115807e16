"""Models that come with the package, found by name: examples/models in a clone, and a copy of it in a wheel."""

from pathlib import Path

from ..errors import InputError

PACKAGE = Path(__file__).resolve().parent.parent


def shipped_folder() -> Path:
    """Return the folder of the shipped models."""
    in_wheel = PACKAGE / "shipped_models"
    return in_wheel if in_wheel.is_dir() else PACKAGE.parent / "examples" / "models"


def shipped_models() -> dict[str, Path]:
    """Return the paths of the shipped models by name, which is that of the file."""
    return {path.stem: path for path in sorted(shipped_folder().glob("*.safetensors"))}


def find_model(model: str | Path) -> Path:
    """Return the path of `model`: a model file or, if no such file exists, the name of a shipped model.

    Raises:
        InputError: `model` has neither a folder nor a suffix, as a file has, and is not the name of a shipped model.
    """
    path, models = Path(model), shipped_models()
    if path.exists() or path.name != str(model) or path.suffix:
        return path
    if str(model) not in models:
        names = ", ".join(models) or "none in this installation"
        raise InputError(f"{model}: no such file, and no shipped model; those are {names}")
    return models[str(model)]
