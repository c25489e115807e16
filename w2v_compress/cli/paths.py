"""The verbs `user-dir` and `config-dir`."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def user_dir() -> None:
    """Print the path of this package, for fairseq's `common.user_dir=`."""
    print(PACKAGE)


def config_dir() -> None:
    """Print the path of the training recipes.

    `train --config-dir` takes its subfolders pretraining, finetuning and distillation.
    """
    in_wheel = PACKAGE / "configs"  # in a clone, configs/ is beside the package
    print(in_wheel if in_wheel.is_dir() else PACKAGE.parent / "configs")
