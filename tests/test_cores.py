"""The cores that this process may use."""

from pathlib import Path

import pytest

from w2v_compress import cores
from w2v_compress.cores import available_cores


@pytest.mark.parametrize(
    ("quota", "allowed"),
    [("max 100000\n", 8), ("200000 100000\n", 2), ("250000 100000\n", 3), ("50000 100000\n", 1), ("900000 100000", 8)],
)
def test_a_container_gets_what_it_is_given(
    quota: str, allowed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(cores, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr("psutil.Process.cpu_affinity", lambda _process: list(range(8)))
    assert available_cores() == allowed


def test_without_a_container_the_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr("psutil.Process.cpu_affinity", lambda _process: [0, 5])
    assert available_cores() == 2
