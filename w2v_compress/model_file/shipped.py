"""Models that come with the package, found by name: examples/models in a clone, and a copy of it in a wheel."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def shipped_folder() -> Path:
    """Return the folder of the shipped models."""
    in_wheel = PACKAGE / "shipped_models"
    return in_wheel if in_wheel.is_dir() else PACKAGE.parent / "examples" / "models"


def shipped_models() -> dict[str, Path]:
    """Return the paths of the shipped models by name, which is that of the file."""
    return {path.stem: path for path in sorted(shipped_folder().glob("*.safetensors"))}


def find_model(model: str | Path) -> Path:
    """Return the path of `model`: that of the shipped model with this name, if there is no such file, else `model`."""
    path = Path(model)
    return path if path.exists() else shipped_models().get(str(model), path)
