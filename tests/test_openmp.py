"""How long OpenMP's threads spin: set for libgomp before torch loads it, unless the user has chosen."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from w2v_compress.openmp import LIBGOMP_SPIN_COUNT, SPIN_COUNT, environment_of_peers

ROOT = Path(__file__).resolve().parent.parent
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def spin_count(program: str, **chosen: str) -> str:
    """What libgomp says that it uses in a process of this program."""
    environment = {name: value for name, value in os.environ.items() if name not in CHOICES}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | chosen | {"OMP_DISPLAY_ENV": "verbose"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = {line.strip() for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line}
    return line.partition("=")[2].strip(" '")


@pytest.mark.parametrize("first", ["w2v_compress", "w2v_compress.runtime.recognizer", "w2v_compress.cli"])
def test_torch_is_told_to_spin_briefly(first: str) -> None:
    assert spin_count(f"import {first}, torch") == SPIN_COUNT


@pytest.mark.parametrize(
    ("chosen", "expected"), [({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "passive"}, "0")]
)
def test_what_the_user_chose_stays(chosen: dict[str, str], expected: str) -> None:
    assert spin_count("import w2v_compress, torch", **chosen) == expected


def test_after_torch_the_environment_stays() -> None:
    program = "import torch, w2v_compress, os; assert 'GOMP_SPINCOUNT' not in os.environ"
    assert spin_count(program) == LIBGOMP_SPIN_COUNT


def test_peers_run_as_their_users_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", SPIN_COUNT)
    assert environment_of_peers() == dict(os.environ) | {"GOMP_SPINCOUNT": LIBGOMP_SPIN_COUNT}
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")
    assert environment_of_peers() == dict(os.environ)
