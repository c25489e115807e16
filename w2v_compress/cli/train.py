"""The verb `train`."""

import re
from typing import Annotated

import typer

from ..errors import InputError


def train(
    context: typer.Context,
    nproc: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Train with N processes on this machine: one for each GPU, or on CPUs with gloo."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the sbatch script of a configuration for Slurm; submit nothing."),
    ] = False,
) -> None:
    """Train a model with fairseq.

    Takes the arguments of fairseq-hydra-train; the models, criterions and tasks of this package are registered.
    """
    from ..extras import require_fairseq

    require_fairseq("train")
    if nproc is not None:
        import torch

        from ..compat.launch import launch

        launch(nproc, context.args, cpu="common.cpu=true" in context.args or not torch.cuda.is_available())
        return
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from ..compat.plugin import hydra_train, register

    try:
        if dry_run:
            from ..compat.slurm import submission_script

            register()
            print(submission_script(context.args))
            return
        hydra_train(context.args)
    except AssertionError as error:
        if "Must specify batch size" not in str(error):
            raise
        raise InputError(
            "train: the batch size is missing: give dataset.max_tokens=SAMPLES or dataset.batch_size=N, or a yaml "
            "with --config-dir and --config-name"
        ) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"train: {_reworded(str(error))}") from error


def _reworded(error: str) -> str:
    """Reword an error of hydra or OmegaConf about a missing setting in terms of the command line."""
    if missing := re.search(r"Missing mandatory value: ([\w.]+)", error):
        return f"{missing[1]} is missing: give {missing[1]}=..."
    if absent := re.search(r"Error trying to access (\w+)\.(\w+): node `\1` is not a container", error):
        group, name = absent.groups()
        field = re.search(r"full_key: ([\w.]+)", error)
        use = f", but {field[1]} is read from {group}.{name}" if field else ""
        example = " such as task=compressed_finetuning task.data=FOLDER" if group == "task" else f" {group}=NAME"
        return f"no {group} is chosen{use}: give one,{example}, or a yaml with --config-dir and --config-name"
    return error
