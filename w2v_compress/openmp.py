"""How long threads of OpenMP spin before they sleep while they wait for one another. Needs no torch.

torch on Linux computes with libgomp, whose threads spin for about 3 ms. Where other programs are busy on the same
cores, they spin for a thread that waits for the core they spin on, and a network of hundreds of small parallel regions
becomes several times slower. benchmarks/busy.py measured what a shorter spin costs and saves (docs/runtime.md).
"""

import os
import sys

SPIN_COUNT = "10000"
"""Short enough for busy machines, and long enough for threads not to fall asleep between two operations."""
LIBGOMP_SPIN_COUNT = "300000"
"""libgomp's own, where no environment variable says otherwise."""


def limit_spinning() -> None:
    """Let OpenMP's threads in this process spin for a tenth of a millisecond, unless the user has chosen otherwise.

    libgomp reads this once, when torch loads it: after torch has been imported, nothing is changed any more.
    """
    chosen = "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ
    if not chosen and "torch" not in sys.modules:
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def environment_of_peers() -> dict[str, str]:
    """The environment without what `limit_spinning` did to it: that of a user who runs another library."""
    environment = dict(os.environ)
    if environment.get("GOMP_SPINCOUNT") == SPIN_COUNT:
        environment["GOMP_SPINCOUNT"] = LIBGOMP_SPIN_COUNT  # importing this package must not choose it again
    return environment
