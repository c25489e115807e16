"""Energy of the processor, from its own counters, by codecarbon (the pip extra `energy`): measured or not given.

Where there are no counters, codecarbon guesses from the processor's rated power. A guess proportional to time says
nothing that the time does not, so here it is refused. Nothing is sent or looked up: the tracker is the offline one.
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
    """The package codecarbon; `InputError` names the pip extra when it is not installed."""
    codecarbon = require("--energy", "energy", "codecarbon")
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # it talks before it reads `log_level`
    return codecarbon


def why_unmeasured() -> str | None:
    """Why this machine cannot measure the energy of its processor, or None where it can."""
    counters = sorted(POWERCAP.glob("intel-rapl:*/energy_uj"))  # so named on AMD's processors too
    if not counters:
        return f"no RAPL energy counters in {POWERCAP} (virtual machines and containers seldom have them)"
    if not any(os.access(counter, os.R_OK) for counter in counters):
        return f"the RAPL energy counters in {POWERCAP} may not be read by this user: run as root"
    return None


def processor_joules(run: Callable[[], Any]) -> float:
    """Joules of the whole processor, other programs included, while `run` is called once.

    Raises `InputError` when codecarbon does not use the counters that `why_unmeasured` found.
    """
    # Given in full: what is left out, codecarbon takes from the environment and from ~/.codecarbon.config.
    tracker = require_codecarbon().OfflineEmissionsTracker(
        country_iso_code="USA",  # it must have one, for the carbon, which is not used here
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
