"""What the processor is, and what it computes fast. Does not import torch."""

import functools
import platform
from pathlib import Path
from typing import NamedTuple

CPUINFO = Path("/proc/cpuinfo")
COOPER_LAKE = 85
"""Model number of the one Intel processor with fast bf16 products outside AMX."""

INT8_UNITS = frozenset({"avx512_vnni", "avx_vnni", "avx512vnni", "amx_int8"})
"""Instructions of x86 that add int8 products in 32 bits; the name without an underscore is py-cpuinfo's."""


class Processor(NamedTuple):
    """Name and features of the processor."""

    name: str
    vendor: str
    """For example `GenuineIntel`."""
    model: int
    """Intel's or AMD's model number, 0 if unknown."""
    flags: frozenset[str]
    """Instruction sets, as Linux names them."""

    @property
    def has_fast_bfloat16(self) -> bool:
        """Whether bf16 products are faster than fp32 ones: with AMX, or with AVX512-BF16 on most processors.

        Intel processors with AMX compute AVX512-BF16 products at half the rate of fp32, which matters where a virtual
        machine hides AMX.
        """
        if "amx_bf16" in self.flags:
            return True
        return "avx512_bf16" in self.flags and (self.vendor != "GenuineIntel" or self.model == COOPER_LAKE)

    @property
    def overflows_int8(self) -> bool:
        """Whether sums of two int8 products may overflow, as on x86 processors without VNNI or AMX.

        Their libraries multiply unsigned by signed bytes and add pairs of products in 16 bits, which hold 255 * 64 * 2,
        but not 255 * 127 * 2: a weight of 7 bits is safe.
        """
        return "sse2" in self.flags and self.flags.isdisjoint(INT8_UNITS)


@functools.cache
def processor() -> Processor:
    """Return the processor of this machine, from /proc/cpuinfo or else py-cpuinfo, which takes a second."""
    try:
        text = CPUINFO.read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:  # not Linux
        import cpuinfo

        info = cpuinfo.get_cpu_info()
        return Processor(
            info.get("brand_raw") or platform.machine(),
            info.get("vendor_id_raw", ""),
            int(info.get("model") or 0),
            frozenset(info.get("flags", ())),
        )
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    model = fields.get("model", "")
    return Processor(
        fields.get("model name") or platform.machine(),
        fields.get("vendor_id", ""),
        int(model) if model.isdecimal() else 0,
        frozenset(fields.get("flags", "").split()),
    )
