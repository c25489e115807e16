"""Arguments, settings and plans: parsers return a value or raise `InputError`, and windows cover the audio."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from w2v_compress.compat.pickles import evaluate
from w2v_compress.nn.architecture import Architecture, parse_conv_layers
from w2v_compress.nn.compression import UNCOMPRESSED, CompressionPoint, CompressionSpace
from w2v_compress.runtime.windows import plan_windows
from w2v_compress.shards import Shard

Fuzz = Callable[[Callable[[Any], object], SearchStrategy[Any]], None]
Edited = Callable[[str], SearchStrategy[str]]
Values = SearchStrategy[Any]


def test_points_and_shards(fuzz: Fuzz, edited: Edited) -> None:
    fuzz(CompressionPoint.parse, st.one_of(edited("2,1,2"), edited("1,[1;2],[2;1]"), st.text(max_size=20)))
    fuzz(Shard.parse, st.one_of(edited("3/8"), st.text(max_size=20)))


def test_spaces(fuzz: Fuzz, json_values: Values) -> None:
    names = st.sampled_from(["squeeze", "query_pool", "key_value_pool", "points", "layer_wise", "other"])
    fuzz(CompressionSpace.from_dict, st.dictionaries(names, json_values))


def test_settings_that_fairseq_evaluates(fuzz: Fuzz, edited: Edited) -> None:
    text = edited("[(512, 10, 5)] + [(512, 3, 2)] * 4")
    fuzz(parse_conv_layers, text)
    fuzz(evaluate, st.one_of(text, edited("(0.9, 0.98)"), st.text(max_size=40)))


def test_windows_cover_the_audio(fuzz: Fuzz) -> None:
    architecture = Architecture()

    def check(example: tuple[int, float]) -> None:
        samples, seconds = example
        windows = plan_windows(architecture, samples, seconds, UNCOMPRESSED)
        assert windows

    fuzz(check, st.tuples(st.integers(400, 16_000 * 600), st.floats(3, 60)))
