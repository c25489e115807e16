"""Compression points and spaces: parsing, validation and sampling."""

import dataclasses
import itertools
import json
from typing import Any

import pytest

from w2v_compress.errors import InputError
from w2v_compress.nn.compression import MAX_FACTOR, UNCOMPRESSED, CompressionPoint, CompressionSpace, parse_points

POINTS = {
    "1,1,1": CompressionPoint(),
    "2,1,1": CompressionPoint(2),
    "3,2,4": CompressionPoint(3, 2, 4),
    "2,1:1:2:2,2": CompressionPoint(2, (1, 1, 2, 2), 2),
    "16,1:2,2:1": CompressionPoint(16, (1, 2), (2, 1)),
}
CHI_SQUARE_999 = {3: 16.27, 15: 37.70}
"""99.9th percentile of the chi-square distribution by degrees of freedom."""


@pytest.mark.parametrize("text", POINTS)
def test_points_round_trip_through_text(text: str):
    assert CompressionPoint.parse(text) == POINTS[text]
    assert str(POINTS[text]) == text
    assert hash(CompressionPoint.parse(text)) == hash(POINTS[text])


def test_equivalent_points_compare_equal():
    assert CompressionPoint.parse("2,1:1:1,2:2:2") == CompressionPoint(2, 1, 2)
    assert str(CompressionPoint(1, (2, 2), (1, 2))) == "1,2,1:2"
    assert CompressionPoint.parse(" 2, 1, 1 ") == CompressionPoint(2)
    assert parse_points(["1,1,1", "2,1,1"]) == (UNCOMPRESSED, CompressionPoint(2))


@pytest.mark.parametrize(("text", "label"), [("2,1,1", "s2_q1_k1"), ("2,1:1:2:2,2", "s2_q1-1-2-2_k2")])
def test_labels_have_no_commas_or_colons(text: str, label: str):
    assert CompressionPoint.parse(text).label == label


def test_labels_are_unique():
    factors = (1, 2, (1, 2), (2, 1), (1, 1, 2))
    points = {
        CompressionPoint(squeeze, *pools) for squeeze in (1, 2, 12) for pools in itertools.product(factors, factors)
    }
    assert len({point.label for point in points}) == len({str(point) for point in points}) == len(points)


@pytest.mark.parametrize(
    "text", ["", "2", "2,1", "2,1,1,1", "a,1,1", "2,1.5,1", "1:2,1,1", "2,,1", "2,1:,1", "(2,1,1)"]
)
def test_invalid_text_raises_an_error_with_an_example(text: str):
    with pytest.raises(InputError, match="it must be S,Q,K such as 2,1,1"):
        CompressionPoint.parse(text)


@pytest.mark.parametrize(
    ("factors", "name", "value"),
    [
        ((0, 1, 1), "squeeze", "0"),
        ((1, -1, 1), "query_pool", "-1"),
        ((1, 1, MAX_FACTOR + 1), "key_value_pool", "17"),
        ((1, (1, 0), 1), "query_pool", "0"),
        ((2.0, 1, 1), "squeeze", "2.0"),
        ((True, 1, 1), "squeeze", "True"),
        ((1, "2", 1), "query_pool", "'2'"),
    ],
)
def test_an_invalid_factor_raises_an_error_with_its_field(factors: tuple[Any, ...], name: str, value: str):
    with pytest.raises(InputError, match=f"`{name}` holds {value}; a factor must be a whole number from 1 to 16"):
        CompressionPoint(*factors)


def test_pooling_factors_per_layer():
    assert CompressionPoint(3, 2, 4).pools_per_layer(3) == [(2, 4)] * 3
    assert CompressionPoint.parse("2,1:2:4,2").pools_per_layer(3) == [(1, 2), (2, 2), (4, 2)]
    with pytest.raises(InputError, match="`query_pool` has 3 factors, but the network has 4 layers"):
        CompressionPoint.parse("2,1:2:4,2").pools_per_layer(4)
    with pytest.raises(InputError, match="`key_value_pool` has 2 factors"):
        CompressionPoint.parse("2,1,1:2").pools_per_layer(12)


def test_the_default_space_has_all_combinations_least_compressed_first():
    space = CompressionSpace()
    points = space.all_points()
    assert points == [CompressionPoint(*point) for point in itertools.product((1, 2, 3, 4), (1, 2), (1, 2))]
    assert (space.largest, space.smallest) == (UNCOMPRESSED, CompressionPoint(4, 2, 2))
    assert all(point in space for point in points)
    assert CompressionPoint(5) not in space
    assert CompressionPoint(1, 3) not in space
    assert CompressionPoint(1, (1, 2)) not in space
    assert CompressionPoint(1, (1, 2)) in dataclasses.replace(space, layer_wise=True)
    assert CompressionPoint(1, (1, 3)) not in dataclasses.replace(space, layer_wise=True)


def test_a_space_of_listed_points():
    points = parse_points(["4,1,1", "2,1:2,1", "2,1,1"])
    space = CompressionSpace(points=points)
    assert space.all_points() == list(points)
    assert (space.largest, space.smallest) == (CompressionPoint(2), CompressionPoint(4))
    assert UNCOMPRESSED not in space
    assert {space.sample(1, update, 2) for update in range(60)} == set(points)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"squeeze": ()}, r"`squeeze` is \[\]; it must list one factor or more"),
        ({"query_pool": (1, 2, 1)}, r"`query_pool` is \[1, 2, 1\]; it must list one factor or more, each once"),
        ({"key_value_pool": (1, 99)}, "compression space: `key_value_pool` holds 99"),
        ({"squeeze": (1, 2.5)}, "`squeeze` holds 2.5"),
        ({"points": (UNCOMPRESSED, UNCOMPRESSED)}, "`points` must list each point once"),
        ({"points": (UNCOMPRESSED,), "layer_wise": True}, "`layer_wise` samples factors"),
    ],
)
def test_an_invalid_space_raises_an_error_with_the_field(fields: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        CompressionSpace(**fields)


@pytest.mark.parametrize(
    "space",
    [
        CompressionSpace(),
        CompressionSpace(squeeze=(2,), query_pool=(1, 3), layer_wise=True),
        CompressionSpace(points=parse_points(["2,1:2,1", "1,1,1"])),
    ],
)
def test_spaces_round_trip_through_json(space: CompressionSpace):
    assert CompressionSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2], "must have no fields but squeeze"),
        ({"factor": [1]}, "must have no fields but squeeze"),
        ({"squeeze": 2}, "`squeeze` is 2; it must be a list"),
        ({"squeeze": ["2"]}, "`squeeze` holds '2'"),
        ({"points": "1,1,1"}, "`points` is '1,1,1'; it must be a list"),
        ({"points": ["1,1"]}, "compression point '1,1' cannot be read"),
        ({"points": [[1, 1, 1]]}, "cannot be read"),
        ({"layer_wise": 1}, "`layer_wise` is 1; it must be true or false"),
    ],
)
def test_invalid_dictionaries_are_rejected(values: Any, message: str):
    with pytest.raises(InputError, match=message):
        CompressionSpace.from_dict(values)


@pytest.mark.parametrize("layer_wise", [False, True])
def test_sampling_depends_on_seed_update_and_draw_only(layer_wise: bool):
    space = CompressionSpace(layer_wise=layer_wise)

    def samples(seed: int, updates: range, draw: int = 0) -> list[CompressionPoint]:
        return [space.sample(seed, update, 12, draw) for update in updates]

    first = samples(1, range(200))
    assert all(point in space for point in first)
    assert samples(1, range(100, 200)) == first[100:]  # as after resuming
    for other in (samples(2, range(200)), samples(1, range(200), draw=1), samples(1, range(200, 400))):
        assert sum(one == another for one, another in zip(first, other, strict=True)) < 40


def test_sampling_is_the_same_in_every_version():
    """A run that resumes with another version must sample the same points: these are stored samples."""
    space = CompressionSpace()
    assert [str(space.sample(1, update, 12)) for update in range(6)] == [
        *("2,2,2", "3,1,1", "3,1,2", "2,1,2", "3,1,1", "4,1,1")
    ]
    assert str(CompressionSpace(layer_wise=True).sample(1, 0, 4)) == "2,2:2:2:1,1:2:2:1"


def test_negative_seeds_and_large_update_numbers_are_valid():
    assert CompressionSpace().sample(-1, 10**7, 12) in CompressionSpace()


def chi_square(counts: list[int]) -> float:
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 / expected for count in counts)


def test_sampled_points_are_uniform():
    """Over 10,000 updates: squeeze factors, and all combinations, so that the factors are independent too."""
    space = CompressionSpace()
    points = [space.sample(7, update, 12) for update in range(10_000)]
    assert chi_square([points.count(point) for point in space.all_points()]) < CHI_SQUARE_999[15]
    squeezes = [point.squeeze for point in points]
    assert chi_square([squeezes.count(factor) for factor in space.squeeze]) < CHI_SQUARE_999[3]


def test_sampled_layers_are_uniform_and_independent():
    """Query and key-value pooling of two neighbouring layers over 10,000 updates."""
    space = CompressionSpace(layer_wise=True)
    layers = [space.sample(7, update, 3).pools_per_layer(3) for update in range(10_000)]
    neighbours = [first + second for first, second, _ in layers]
    counts = [neighbours.count(pools) for pools in itertools.product((1, 2), repeat=4)]
    assert chi_square(counts) < CHI_SQUARE_999[15]
