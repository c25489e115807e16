"""The number of cores that this process may use, limited by the CPU quotas of cgroup v2 and v1."""

from pathlib import Path

import pytest

from w2v_compress import cores
from w2v_compress.cores import available_cores


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of /sys/fs/cgroup, for a process whose affinity allows 8 cores."""
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    monkeypatch.setattr("psutil.Process.cpu_affinity", lambda _process: list(range(8)))
    return tmp_path


def write_v1(cgroup: Path, quota: str, period: str) -> None:
    (cgroup / "cpu").mkdir()
    (cgroup / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (cgroup / "cpu" / "cpu.cfs_period_us").write_text(period)


@pytest.mark.parametrize(
    ("quota", "allowed"),
    [("max 100000\n", 8), ("200000 100000\n", 2), ("250000 100000\n", 3), ("50000 100000\n", 1), ("900000 100000", 8)],
)
def test_quota_of_cgroup_v2(cgroup: Path, quota: str, allowed: int) -> None:
    (cgroup / "cpu.max").write_text(quota)
    assert available_cores() == allowed


@pytest.mark.parametrize(
    ("quota", "period", "allowed"),
    [("-1\n", "100000\n", 8), ("150000\n", "50000\n", 3), ("50000\n", "100000\n", 1), ("100000\n", "0\n", 8)],
)
def test_quota_of_cgroup_v1(cgroup: Path, quota: str, period: str, allowed: int) -> None:
    write_v1(cgroup, quota, period)
    assert available_cores() == allowed


def test_cgroup_v2_precedes_v1(cgroup: Path) -> None:
    write_v1(cgroup, "100000\n", "100000\n")
    (cgroup / "cpu.max").write_text("300000 100000\n")
    assert available_cores() == 3


def test_without_a_quota_the_affinity_counts(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.Process.cpu_affinity", lambda _process: [0, 5])
    assert available_cores() == 2
