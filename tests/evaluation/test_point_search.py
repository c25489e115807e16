"""The greedy search for points with factors per layer."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from w2v_compress.data.audio import SAMPLE_RATE, read_audio
from w2v_compress.data.manifest import Utterance, write_manifest
from w2v_compress.errors import InputError
from w2v_compress.evaluation.compute import count_compute
from w2v_compress.evaluation.point_search import layer_table, search_points, search_table
from w2v_compress.model_file.storage import ModelFile, write_model
from w2v_compress.nn.compression import CompressionPoint, CompressionSpace
from w2v_compress.runtime.engines.torch_engine import TorchEngine
from w2v_compress.runtime.recognizer import Recognizer

LAYERS = 3
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model(tiny_model: Callable[..., ModelFile]) -> ModelFile:
    """A tiny model in which pooling changes the output much, trained for factors per layer."""
    made = tiny_model(encoder_layers=LAYERS)
    generator = torch.Generator().manual_seed(3)
    state = {
        name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator) if ".layers." in name else tensor
        for name, tensor in made.state.items()
    }
    return ModelFile(dataclasses.replace(made.header, space=CompressionSpace(layer_wise=True)), state)


@pytest.fixture
def recognizer(model: ModelFile) -> Recognizer:
    return Recognizer(TorchEngine(model.build()), model.header)


@pytest.fixture
def utterances(wav: Callable[..., Path]) -> list[Utterance]:
    texts = ("ONE TWO", "", "THREE", "FOUR FIVE SIX SEVEN EIGHT NINE TEN")
    lengths = (0.8, 0.5, 1.1, 0.3)  # the last text needs more frames than there are
    return [
        Utterance(wav(f"{number}.wav", seconds, seed=number), round(16_000 * seconds), text)
        for number, (seconds, text) in enumerate(zip(lengths, texts, strict=True))
    ]


def loss_of(recognizer: Recognizer, utterances: list[Utterance], point: CompressionPoint) -> float:
    """The CTC loss per letter, with a batch of one."""
    total, labels = 0.0, 0
    for utterance in utterances[:1] + utterances[2:3]:
        emissions = torch.from_numpy(recognizer.emissions(read_audio(utterance.path), SAMPLE_RATE, point=point))
        target = torch.tensor([recognizer.header.units.encode(utterance.text)])
        total += float(F.ctc_loss(emissions[:, None], target, [len(emissions)], [target.shape[1]], reduction="sum"))
        labels += target.shape[1]
    return total / labels


def test_each_step_raises_the_cheapest_factor(recognizer: Recognizer, utterances: list[Utterance]) -> None:
    calls = []
    search = search_points(
        recognizer, utterances, 2, [2, 1, 3], progress=lambda done, total: calls.append((done, total))
    )
    assert search.start.point == CompressionPoint(2)
    assert search.start.loss == pytest.approx(loss_of(recognizer, utterances, CompressionPoint(2)), rel=1e-5)
    architecture = recognizer.header.architecture
    macs = sum(count_compute(architecture, each.samples, search.start.point).total for each in utterances)
    assert search.start.macs_per_second == pytest.approx(macs / sum(each.seconds for each in utterances))
    assert [str(scored.point) for scored in search.uniform] == [
        f"2,{query},{key_value}" for query in (1, 2, 3) for key_value in (1, 2, 3)
    ]

    assert len(search.steps) == 2 * LAYERS * 2
    assert search.steps[-1].point == CompressionPoint(2, 3, 3)
    for before, after in zip([search.start, *search.steps], search.steps, strict=False):
        assert after.macs_per_second < before.macs_per_second
        raised = [
            new - old
            for olds, news in zip(
                before.point.pools_per_layer(LAYERS), after.point.pools_per_layer(LAYERS), strict=True
            )
            for old, new in zip(olds, news, strict=True)
        ]
        assert sorted(raised) == [0] * (2 * LAYERS - 1) + [1]

    prices = {}
    for layer in range(LAYERS):
        for pool in ("query_pool", "key_value_pool"):
            factors = tuple(2 if each == layer else 1 for each in range(LAYERS))
            point = CompressionPoint(2, **{pool: factors})
            saved = macs - sum(count_compute(architecture, each.samples, point).total for each in utterances)
            increase = loss_of(recognizer, utterances, point) - search.start.loss
            prices[point] = increase / saved
            (found,) = (cost for cost in search.layers if (cost.layer, cost.pool) == (layer + 1, pool))
            assert found.loss_increase == pytest.approx(increase, abs=1e-5)
    assert search.steps[0].point == min(prices, key=lambda point: prices[point])
    increases = [cost.loss_increase for cost in search.layers]
    assert increases == sorted(increases)
    assert calls[-1][0] == calls[-1][1] == len(calls)


def test_the_search_ends_at_the_budget(recognizer: Recognizer, utterances: list[Utterance]) -> None:
    full = search_points(recognizer, utterances, 1, [1, 2])
    shares = [step.macs_per_second / full.start.macs_per_second for step in full.steps]
    some = search_points(recognizer, utterances, 1, [1, 2], budget=shares[2])
    assert some.steps == full.steps[:3]
    none = search_points(recognizer, utterances, 1, [1, 2], budget=1)
    assert none.steps == []
    assert none.layers == []


def test_tables_and_json(run: Run, model: ModelFile, utterances: list[Utterance], tmp_path: Path) -> None:
    path, out = tmp_path / "model.safetensors", tmp_path / "search.json"
    write_model(path, model)
    write_manifest(tmp_path / "data", "dev", utterances, model.header.units)
    arguments = ["search", path, tmp_path / "data", "--squeeze", "2", "--engine", "torch", "--precision", "fp32"]
    status, printed, err = run(*arguments, "--json", out)
    assert (status, err) == (0, "")
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["start"]["point"] == "2,1,1"
    assert found["steps"][-1]["point"] == "2,2,2"
    assert "2,2,2" in printed
    assert "keys and values" in printed
    assert "not trained" not in printed

    search = search_points(Recognizer.load(path, engine="torch", precision="fp32"), utterances, 2, [1, 2])
    assert search.to_dict() == {name: found[name] for name in search.to_dict()}
    assert len(search_table(search)[1]) == 1 + 2 * LAYERS + 3
    assert len(layer_table(search)[1]) == 2 * LAYERS

    uniform = dataclasses.replace(model.header, space=CompressionSpace())
    write_model(path, ModelFile(uniform, model.state))
    status, printed, err = run(*arguments)
    assert (status, err) == (0, "")
    assert "Note: the model was not trained for the compression point" in printed


@pytest.mark.parametrize(
    ("factors", "budget", "count", "message"),
    [
        ([2, 3], 0, 4, "the pooling factors are .2, 3.; they must be 1 and at least one more"),
        ([1], 0, 4, "they must be 1 and at least one more"),
        ([1, 17], 0, 4, "from 1 to 16"),
        ([1, 2], 1.5, 4, "`budget` is 1.5; it must be from 0 to 1"),
        ([1, 2], 0, 0, "there are no utterances to search on"),
    ],
)
def test_invalid_arguments(
    factors: list[int], budget: float, count: int, message: str, recognizer: Recognizer, utterances: list[Utterance]
) -> None:
    with pytest.raises(InputError, match=message):
        search_points(recognizer, utterances[:count], 1, factors, budget=budget)


def test_transcripts_are_needed(recognizer: Recognizer, utterances: list[Utterance], run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the utterances have no text; the search needs transcripts"):
        search_points(recognizer, utterances[1:2], 1, [1, 2])
    with pytest.raises(InputError, match="every utterance is too short for its text"):
        search_points(recognizer, utterances[3:], 1, [1, 2])
    status, _, err = run("search", "prompts-elastic", tmp_path, "--factors", "1,x")
    assert status == 1
    assert err == "w2v-compress: --factors is '1,x'; it must be whole numbers such as 1,2,3\n"
