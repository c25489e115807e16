"""The model of training on several GPUs, and its check with two processes."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scale() -> SimpleNamespace:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return SimpleNamespace(**runpy.run_path(str(BENCHMARKS / "scale.py")))
    finally:
        sys.path.remove(str(BENCHMARKS))


def cluster(scale: SimpleNamespace, **values: Any) -> Any:
    """A cluster on which everything takes a round number of seconds."""
    given = {"flops": 6.0, "utilization": 0.5, "gpus_per_node": 8, "node_bandwidth": 4.0, "network_bandwidth": 2.0}
    return scale.Cluster(**given | {"latency": 0.0, "spread": 0.0} | values)


def test_the_time_of_an_update(scale: SimpleNamespace) -> None:
    assert cluster(scale).compute(1.0) == pytest.approx(2.0)  # 6 operations at 3 a second
    assert cluster(scale).exchange(1, 8.0) == 0
    assert cluster(scale).exchange(2, 8.0) == pytest.approx(2.0)  # each sends 8 bytes at 4 a second
    assert cluster(scale).exchange(8, 8.0) == pytest.approx(3.5)
    assert cluster(scale).exchange(16, 8.0) == pytest.approx(7.5)  # through the network
    assert cluster(scale, latency=0.1).exchange(16, 0.0) == pytest.approx(0.8)
    assert cluster(scale).update(2, 1.0, 8.0) == pytest.approx(32 * 2.0 + 2.0)
    assert cluster(scale).update(128, 1.0, 0.0) == pytest.approx(2.0)


def test_ranks_wait_for_the_slowest(scale: SimpleNamespace) -> None:
    assert scale.expected_largest(1) == 0
    assert scale.expected_largest(2) == pytest.approx(0.564, abs=0.03)
    assert scale.expected_largest(100) == pytest.approx(2.508, abs=0.02)
    waiting = cluster(scale, spread=0.4).update(16, 1.0, 0.0) / (4 * 2.0) - 1
    assert waiting == pytest.approx(0.2 * scale.expected_largest(16))  # four batches average out half of it


def test_counts_and_prediction(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "180")
    report = tmp_path / "report.json"
    arguments = ["--architecture", small, "--points", "1,1,1 2,1,1", "--seconds", "1", "--processes"]
    monkeypatch.setattr(sys, "argv", ["scale.py", *arguments, "--json", str(report)])
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    runpy.run_path(str(BENCHMARKS / "scale.py"), run_name="__main__")
    assert "audio h per h" in capfd.readouterr().out
    values = json.loads(report.read_text())
    full, squeezed = values["points"]
    assert full["gradient_bytes"] == squeezed["gradient_bytes"] == 2 * full["parameters"]
    assert full["activation_bytes_per_second_fp32"] > squeezed["activation_bytes_per_second_fp32"]
    assert full["macs_per_second"] > squeezed["macs_per_second"]
    rows = values["prediction"]
    assert {row["point"] for row in rows} == {"1,1,1", "2,1,1", "sampled"}
    assert all(row["efficiency"] <= 1 for row in rows)
    hours = [row["audio_hours_per_hour"] for row in rows if row["point"] == "sampled"]
    assert hours == sorted(hours)


@pytest.mark.soak
def test_two_processes(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    arguments = ["--architecture", "student-4", "--points", "2,1,1", "--check-points", "2,1,1", "--processes", "1", "2"]
    arguments += ["--seconds", "1", "--repeats", "3", "--json", str(report)]
    subprocess.run([sys.executable, str(BENCHMARKS / "scale.py"), *arguments], check=True, timeout=300)
    one, two = json.loads(report.read_text())["check"]
    assert one["exchange_seconds"] == 0
    assert one["measured_bytes"] < 1e5  # what other programs send
    assert two["exchange_seconds"] > 0
    assert two["measured_bytes"] == pytest.approx(two["predicted_bytes"], rel=0.02)
    assert 0.5 < two["share"] < 2
