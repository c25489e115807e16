"""Make fairseq's checkpoints survive kills, full disks and damage."""

import contextlib
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError

logger = logging.getLogger(__name__)


def patch_copy(stock: Callable[..., Any]) -> Callable[..., bool]:
    """Patch fairseq's `PathManager.copy` to write beside the target and rename, so a kill leaves no part of a file."""

    @functools.wraps(stock)
    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        with _removed_on_failure(f"{dst_path}.tmp") as temporary:
            stock(src_path, temporary, overwrite=overwrite)
            os.replace(temporary, dst_path)
        return True

    return copy


def patch_persistent_save(stock: Callable[..., None]) -> Callable[..., None]:
    """Patch fairseq's `torch_persistent_save` to remove its temporary file if saving fails."""

    @functools.wraps(stock)
    def torch_persistent_save(obj: Any, filename: str, async_write: bool = False) -> None:
        with _removed_on_failure(f"{filename}.tmp"):
            stock(obj, filename, async_write)

    return torch_persistent_save


@contextlib.contextmanager
def _removed_on_failure(temporary: str) -> Any:
    try:
        yield temporary
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        # torch.save reports a full disk as a RuntimeError of its zip writer.
        if isinstance(error, OSError | RuntimeError):
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise InputError(f"{temporary.removesuffix('.tmp')}: cannot be written: {reason}") from error
        raise


def patch_load_checkpoint_to_cpu(stock: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Patch fairseq's `load_checkpoint_to_cpu`: if `checkpoint_last.pt` is damaged, it loads the newest whole one."""

    @functools.wraps(stock)
    def load_checkpoint_to_cpu(path: str, *arguments: Any, **options: Any) -> dict[str, Any]:
        try:
            return stock(path, *arguments, **options)
        except InputError as damage:
            if Path(path).name != "checkpoint_last.pt":
                raise
            others = [other for other in Path(path).parent.glob("checkpoint*.pt") if other.name != "checkpoint_last.pt"]
            for other in sorted(others, key=lambda other: other.stat().st_mtime, reverse=True):
                with contextlib.suppress(InputError):
                    state = stock(str(other), *arguments, **options)
                    logger.warning("%s; training goes on from %s", damage, other)
                    return state
            raise

    return load_checkpoint_to_cpu
