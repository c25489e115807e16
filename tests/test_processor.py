"""What the processor is, read from /proc/cpuinfo, and whether its bf16 is fast."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from w2v_compress import processor as module
from w2v_compress.processor import Processor, processor

CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 207
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu avx512_bf16 avx512_vnni

processor\t: 1
model name\t: another
"""


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(module, "CPUINFO", path)
    processor.cache_clear()
    yield path
    processor.cache_clear()


def test_the_first_processor_is_read(cpuinfo: Path) -> None:
    cpuinfo.write_text(CPUINFO)
    flags = frozenset({"fpu", "avx512_bf16", "avx512_vnni"})
    assert processor() == Processor("Intel(R) Xeon(R) Processor", "GenuineIntel", 207, flags)


def test_other_systems_ask_py_cpuinfo(cpuinfo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = {"brand_raw": "Apple M1", "flags": ["bf16"]}
    monkeypatch.setattr("cpuinfo.get_cpu_info", lambda: info)
    assert processor() == Processor("Apple M1", "", 0, frozenset({"bf16"}))


@pytest.mark.parametrize(
    ("vendor", "model", "flags", "fast"),
    [
        ("GenuineIntel", 207, ["avx512_bf16"], False),  # a virtual machine that hides AMX
        ("GenuineIntel", 207, ["avx512_bf16", "amx_bf16"], True),
        ("GenuineIntel", 85, ["avx512_bf16"], True),
        ("AuthenticAMD", 17, ["avx512_bf16"], True),
        ("AuthenticAMD", 17, ["avx2"], False),
    ],
)
def test_fast_bfloat16(vendor: str, model: int, flags: list[str], fast: bool) -> None:
    assert Processor("", vendor, model, frozenset(flags)).has_fast_bfloat16 == fast


@pytest.mark.parametrize(
    ("flags", "overflows"),
    [
        (["sse2", "avx2"], True),
        (["sse2", "avx512f"], True),
        (["sse2", "avx2", "avx_vnni"], False),
        (["sse2", "avx512f", "avx512_vnni"], False),
        (["sse2", "avx512vnni"], False),  # py-cpuinfo's name
        (["asimd", "asimddp"], False),
    ],
)
def test_overflows_of_int8(flags: list[str], overflows: bool) -> None:
    assert Processor("", "", 0, frozenset(flags)).overflows_int8 == overflows
