"""The verbs `user-dir` and `config-dir`."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def user_dir() -> None:
    """Print the absolute path for fairseq's `common.user_dir=`."""
    print(PACKAGE)


def config_dir() -> None:
    """Print the absolute path of the recipes, for `--config-dir` with /pretraining, /finetuning or /distillation."""
    inside = PACKAGE / "configs"  # in a wheel; a clone has them beside the package
    print(inside if inside.is_dir() else PACKAGE.parent / "configs")
