"""How fairseq finds this package: its `common.user_dir`, and the registration of models, criterions and tasks."""

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
    """The folder for fairseq's `common.user_dir`: this package, wherever it is installed."""
    return Path(__file__).absolute().parent.parent


def register() -> None:
    """Import every model, criterion and task, which registers them with fairseq.

    fairseq does so itself for its `common.user_dir`, but not for a package that is imported already.
    """
    package = __package__.rpartition(".")[0]
    for kind in ("models", "criterions", "tasks"):
        for file in sorted((user_dir() / kind).glob("[!_]*.py")):
            importlib.import_module(f"{package}.{kind}.{file.stem}")


def hydra_train(arguments: list[str]) -> None:
    """Run `fairseq-hydra-train` with these arguments and this plugin registered, also in the processes that it starts.

    Raises what fairseq, hydra and OmegaConf raise.
    """
    from fairseq_cli import hydra_train

    register()
    hydra_train.pre_main = _train_registered
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # otherwise hydra shortens our one-line error to a traceback
    sys.argv = ["fairseq-hydra-train", *arguments]
    hydra_train.cli_main()


def _train_registered(configuration: Any, **options: Any) -> None:
    """Train as fairseq does; the processes started for each GPU call this and register the plugin for themselves."""
    from fairseq_cli.train import main

    register()
    main(configuration, **options)


def refusing_second_copy(stock: Callable[[Any], None]) -> Callable[[Any], None]:
    """Fairseq's `import_user_module` with a clear error for another copy of this package than the imported one."""

    @functools.wraps(stock)
    def import_user_module(args: Any) -> None:
        folder = Path(getattr(args, "user_dir", None) or "")
        # The name alone, which our yamls give, is this package from wherever the command was given.
        by_name = str(folder) == user_dir().name and not folder.is_dir()
        if by_name or (folder.name == user_dir().name and folder.is_dir()):
            if not by_name and not folder.samefile(user_dir()):
                raise InputError(
                    f"common.user_dir={folder} is another copy of w2v_compress than the one imported already, from "
                    f"{user_dir()}; give that one as common.user_dir, or uninstall one of the two"
                )
            # fairseq compares the folders as strings; this one may be a link to ours.
            args = argparse.Namespace(user_dir=str(user_dir()))
            register()  # fairseq does not, if the package is imported already
        stock(args)

    return import_user_module
