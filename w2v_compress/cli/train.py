"""The verb `train`."""

import re

import typer

from ..errors import InputError


def train(context: typer.Context) -> None:
    """Train a model with fairseq.

    Takes the arguments of fairseq-hydra-train; the models, criterions and tasks of this package are registered.
    """
    from ..extras import require_fairseq

    require_fairseq("train")
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from ..compat.plugin import hydra_train

    try:
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
