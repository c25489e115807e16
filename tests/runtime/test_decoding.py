import itertools

import torch

from w2v_compress.runtime.decoding import greedy_ctc


def test_equals_the_definition_on_every_short_path() -> None:
    for path in itertools.product(range(3), repeat=5):
        collapsed = [unit for unit, _ in itertools.groupby(path)]
        expected = [unit for unit in collapsed if unit != 0]
        assert greedy_ctc(torch.nn.functional.one_hot(torch.tensor(path), 3).float()) == expected


def test_no_frames() -> None:
    assert greedy_ctc(torch.zeros(0, 5)) == []
