"""Set the number of threads; more threads than cores slow each other down."""

from ...cores import available_cores
from ...errors import InputError


def set_threads(threads: int | None) -> None:
    """Set the number of torch's threads for this process; None lowers it to the number of available cores.

    By default torch starts a thread for each core of the machine, even if a container or a batch system gives this
    process fewer. Raises `InputError` if `threads` is below 1.
    """
    import torch

    if threads is None:
        threads = min(torch.get_num_threads(), available_cores())
    elif threads < 1:
        raise InputError(f"`threads` is {threads}; it must be at least 1")
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
