"""Energy of the processor from its RAPL counters, read by codecarbon (the pip extra `energy`).

Without counters, codecarbon estimates the energy from the processor's rated power. Such an estimate is proportional to
the time and adds no information, so it is rejected. codecarbon's offline tracker is used, which needs no network.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..extras import require

POWERCAP = Path("/sys/class/powercap")
JOULES_PER_KWH = 3.6e6


def require_codecarbon() -> Any:
    """Return the package codecarbon. Raises `InputError` with the command that installs it when it is missing."""
    codecarbon = require("--energy", "energy", "codecarbon")
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # it logs before it reads `log_level`
    return codecarbon


def missing_counters() -> str | None:
    """Return the reason why this machine cannot measure the energy of its processor, or None if it can."""
    counters = sorted(POWERCAP.glob("intel-rapl:*/energy_uj"))  # the same name on AMD processors
    if not counters:
        return f"no RAPL energy counters in {POWERCAP} (virtual machines and containers seldom have them)"
    if not any(os.access(counter, os.R_OK) for counter in counters):
        return f"the RAPL energy counters in {POWERCAP} may not be read by this user: run as root"
    return None


def processor_joules(run: Callable[[], Any]) -> float:
    """Call `run` once, and return the energy of the processor meanwhile in joules, including other programs.

    Raises `InputError` when codecarbon does not use the counters.
    """
    # All options are set, because codecarbon reads others from the environment and from ~/.codecarbon.config.
    tracker = require_codecarbon().OfflineEmissionsTracker(
        country_iso_code="USA",  # required for carbon emissions, which are not used here
        output_methods=[],
        electricitymaps_api_token="",
        tracking_mode="machine",
        force_cpu_power=None,
        force_mode_cpu_load=False,
        allow_multiple_runs=True,
        gpu_ids=[],
        log_level="critical",
    )
    tracker.start_task("run")
    run()
    measured = tracker.stop_task("run")
    if not any(getattr(part, "_mode", None) == "intel_rapl" for part in tracker._hardware):
        raise InputError("codecarbon did not use the RAPL energy counters: nothing was measured")
    return JOULES_PER_KWH * measured.cpu_energy
