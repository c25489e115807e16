"""Limit how long OpenMP threads spin before they sleep, while they wait for each other. Does not import torch.

On Linux, torch uses libgomp, whose threads spin for about 3 ms by default. When other programs are busy on the same
cores, a spinning thread occupies the core that the thread it waits for needs, and a network with hundreds of small
parallel regions becomes several times slower. A shorter spin avoids that (docs/runtime.md).
"""

import os
import sys

SPIN_COUNT = "10000"
"""About 0.1 ms: short enough for busy machines, long enough that threads do not sleep between two operations."""
LIBGOMP_SPIN_COUNT = "300000"
"""libgomp's default when no environment variable sets it."""


def limit_spinning() -> None:
    """Limit the spinning of OpenMP threads in this process to 0.1 ms, unless the user has set a wait policy.

    libgomp reads the setting once, when torch loads it, so the function does nothing after torch has been imported.
    """
    set_by_user = "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ
    if not set_by_user and "torch" not in sys.modules:
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def environment_of_peers() -> dict[str, str]:
    """Return the environment for running another library: as the user set it, without `limit_spinning`."""
    environment = dict(os.environ)
    if environment.get("GOMP_SPINCOUNT") == SPIN_COUNT:
        # Set rather than removed: a child process that imports this package would limit it again.
        environment["GOMP_SPINCOUNT"] = LIBGOMP_SPIN_COUNT
    return environment
