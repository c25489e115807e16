"""The script with which hydra's launcher would submit a training to Slurm."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from ..errors import InputError
from ..extras import require


def submission_script(arguments: list[str]) -> str:
    """Return the sbatch script for the arguments of fairseq-hydra-train, without submitting it.

    Raises `InputError` if the configuration has no launcher for Slurm, and the exceptions of hydra for invalid ones.
    """
    require("train --dry-run", "slurm", "submitit", "hydra_plugins.hydra_submitit_launcher")
    from hydra import compose, initialize_config_dir, initialize_config_module
    from hydra._internal.utils import get_args_parser
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    parsed = get_args_parser().parse_args(arguments)
    GlobalHydra.instance().clear()
    folder = parsed.config_dir and str(Path(parsed.config_dir).absolute())
    start: Any = initialize_config_dir if folder else initialize_config_module
    with start(folder or "fairseq.config", version_base="1.1"):
        whole = compose(parsed.config_name or "config", parsed.overrides, return_hydra_config=True)
        launcher = OmegaConf.to_container(whole.hydra.launcher, resolve=True)
    if not isinstance(launcher, dict) or not str(launcher.get("_target_")).endswith("SlurmLauncher"):
        raise InputError("train: --dry-run prints the script for Slurm: choose it, as with +run_config=slurm_8")
    return _script({str(name): value for name, value in launcher.items()})


def _script(launcher: Mapping[str, Any]) -> str:
    """Return the script for the settings of hydra's launcher, which are those of submitit."""
    import submitit
    from submitit.slurm.slurm import SlurmExecutor

    general = {"timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name"}
    settings = {
        name if name in general | {"stderr_to_stdout"} else f"slurm_{name}": value
        for name, value in launcher.items()
        if name not in ("_target_", "submitit_folder", "max_num_timeout")
    }
    with mock.patch.object(SlurmExecutor, "affinity", return_value=1):  # as if this machine had Slurm
        executor = submitit.AutoExecutor(folder=launcher["submitit_folder"], cluster="slurm")
    executor.update_parameters(**settings)
    slurm: Any = executor._executor
    text: str = slurm._make_submission_file_text(slurm._submitit_command_str, "JOB")
    return text
