"""Register this package with fairseq: its `common.user_dir`, and its models, criterions and tasks."""

import argparse
import functools
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError


def user_dir() -> Path:
    """Return the folder of this package, which is the value for fairseq's `common.user_dir`."""
    return Path(__file__).absolute().parent.parent


def register() -> None:
    """Register all models, criterions and tasks with fairseq, by importing them.

    fairseq does this for its `common.user_dir`, but not if the package has already been imported.
    """
    package = __package__.rpartition(".")[0]
    for kind in ("models", "criterions", "tasks"):
        for file in sorted((user_dir() / kind).glob("[!_]*.py")):
            importlib.import_module(f"{package}.{kind}.{file.stem}")


def hydra_train(arguments: list[str]) -> None:
    """Run `fairseq-hydra-train` with `arguments` and this plugin, which is also registered in subprocesses.

    Raises the exceptions of fairseq, hydra and OmegaConf.
    """
    from fairseq_cli import hydra_train

    register()
    hydra_train.pre_main = _train_registered
    # Otherwise hydra replaces the one-line error by a shortened traceback.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    sys.argv = ["fairseq-hydra-train", *arguments]
    hydra_train.cli_main()


def _train_registered(configuration: Any, **options: Any) -> None:
    """Register the plugin and train; this is the entry point of the process for each GPU."""
    from fairseq_cli.train import main

    register()
    main(configuration, **options)


def patch_import_user_module(stock: Callable[[Any], None]) -> Callable[[Any], None]:
    """Patch fairseq's `import_user_module` to reject a `common.user_dir` with another copy of this package."""

    @functools.wraps(stock)
    def import_user_module(args: Any) -> None:
        folder = Path(getattr(args, "user_dir", None) or "")
        # The recipes give only the name, which means this package in any working directory.
        by_name = str(folder) == user_dir().name and not folder.is_dir()
        if by_name or (folder.name == user_dir().name and folder.is_dir()):
            if not by_name and not folder.samefile(user_dir()):
                raise InputError(
                    f"common.user_dir={folder} is another copy of w2v_compress than the imported one, {user_dir()}; "
                    "set common.user_dir to the imported one, or uninstall one of the two"
                )
            # fairseq compares folders as strings, and this one may be a link.
            args = argparse.Namespace(user_dir=str(user_dir()))
            register()  # fairseq does not, if the package has already been imported
        stock(args)

    return import_user_module
