"""The spin count of OpenMP threads is set before torch loads libgomp, unless the user has set a wait policy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from w2v_compress.openmp import LIBGOMP_SPIN_COUNT, SPIN_COUNT, environment_of_peers

ROOT = Path(__file__).resolve().parent.parent
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def spin_count(program: str, **settings: str) -> str:
    """Return the spin count that libgomp reports in a process that runs `program`."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | settings | {"OMP_DISPLAY_ENV": "verbose"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = {line.strip() for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line}
    return line.partition("=")[2].strip(" '")


@pytest.mark.parametrize("first", ["w2v_compress", "w2v_compress.runtime.recognizer", "w2v_compress.cli"])
def test_importing_the_package_limits_spinning(first: str) -> None:
    assert spin_count(f"import {first}, torch") == SPIN_COUNT


@pytest.mark.parametrize(
    ("settings", "expected"), [({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "passive"}, "0")]
)
def test_settings_of_the_user_are_kept(settings: dict[str, str], expected: str) -> None:
    assert spin_count("import w2v_compress, torch", **settings) == expected


def test_importing_torch_first_leaves_the_environment_unchanged() -> None:
    program = "import torch, w2v_compress, os; assert 'GOMP_SPINCOUNT' not in os.environ"
    assert spin_count(program) == LIBGOMP_SPIN_COUNT


def test_peers_run_with_the_default_spin_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", SPIN_COUNT)
    assert environment_of_peers() == dict(os.environ) | {"GOMP_SPINCOUNT": LIBGOMP_SPIN_COUNT}
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")
    assert environment_of_peers() == dict(os.environ)
