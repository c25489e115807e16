"""How many threads to compute with. More than there are cores for, and they wait for one another."""

from ..cores import available_cores
from ..errors import InputError


def set_threads(threads: int | None) -> None:
    """Set torch's threads for the whole process: to `threads`, or by default to no more than there are cores for.

    torch takes as many as the machine has cores, also where a container or a batch system gives this process fewer.
    Raises `InputError` when `threads` is below 1.
    """
    import torch

    if threads is None:
        threads = min(torch.get_num_threads(), available_cores())
    elif threads < 1:
        raise InputError(f"`threads` is {threads}; it must be at least 1")
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
