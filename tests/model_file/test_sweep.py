"""Choosing a point from a stored sweep."""

import json

import pytest

from w2v_compress.errors import InputError
from w2v_compress.model_file.sweep import Sweep, SweptPoint
from w2v_compress.nn.compression import CompressionPoint


def sweep(*figures: tuple[str, float, float]) -> Sweep:
    points = tuple(
        SweptPoint(point=CompressionPoint.parse(point), wer=wer, real_time_factor=time, macs_per_second=1.0)
        for point, wer, time in figures
    )
    return Sweep(subset="dev", precision="fp32", machine={"cores": 2, "gpu": None}, points=points)


SWEEP = sweep(
    ("2,1,1", 0.12, 0.2), ("1,1,1", 0.10, 0.4), ("1,2,1", 0.10, 0.3), ("4,1,1", 0.5, 0.1), ("3,1,1", 0.5, 0.2)
)


def test_round_trip_through_json() -> None:
    assert Sweep.from_dict(json.loads(json.dumps(SWEEP.to_dict()))) == SWEEP


@pytest.mark.parametrize(("budget", "point"), [(1, "1,2,1"), (0.3, "1,2,1"), (0.25, "2,1,1"), (0.1, "4,1,1")])
def test_most_accurate_within_a_budget_and_then_the_fastest(budget: float, point: str) -> None:
    assert str(SWEEP.within_budget(budget).point) == point


@pytest.mark.parametrize(("increase", "point"), [(0, "1,2,1"), (0.02, "2,1,1"), (0.0199, "1,2,1"), (1, "4,1,1")])
def test_fastest_within_an_increase_over_the_least_compressed(increase: float, point: str) -> None:
    assert str(SWEEP.least_compressed.point) == "1,1,1"
    assert str(SWEEP.within_increase(increase).point) == point


def test_the_least_compressed_point_need_not_be_the_most_accurate() -> None:
    better = sweep(("2,1,1", 0.2, 0.2), ("3,1,1", 0.1, 0.1))
    assert str(better.within_increase(-0.05).point) == "3,1,1"
    message = "changes the WER by at most -11 percentage points from the 20.00% of 2,1,1; "
    message += "the most accurate is 3,1,1 with 10.00%"
    with pytest.raises(InputError, match=message):
        better.within_increase(-0.11)


def test_an_error_names_the_fastest_point() -> None:
    with pytest.raises(InputError, match=r"at most 0.05; the fastest is 4,1,1 with 0.1"):
        SWEEP.within_budget(0.05)
    with pytest.raises(InputError, match="at most nan"):
        SWEEP.within_budget(float("nan"))


def test_duplicate_points_are_rejected() -> None:
    with pytest.raises(InputError, match="each once"):
        sweep(("1,1,1", 0.1, 0.1), ("1,1,1", 0.2, 0.1))
