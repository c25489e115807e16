"""Access fairseq's meters."""

from collections.abc import Callable
from typing import Any

from fairseq.logging.meters import MetersDict


def derived_function(meter: Any) -> Callable[[dict[str, Any]], float] | None:
    """Return the function with which `meter` derives its value from the other meters; None for an ordinary meter."""
    return meter.fn if isinstance(meter, MetersDict._DerivedMeter) else None
