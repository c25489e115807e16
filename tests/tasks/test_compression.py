"""Sampling of points, the sandwich rule, validation at points, and invalid settings."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from fairseq.criterions.ctc import CtcCriterion, CtcCriterionConfig
from fairseq.logging import metrics
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config
from omegaconf import OmegaConf

from w2v_compress.errors import InputError
from w2v_compress.nn.compression import CompressionPoint, CompressionSpace
from w2v_compress.tasks.compression import at_point

QUANTILES = {1: 10.828, 3: 16.266, 15: 37.697, 63: 103.442, 255: 330.520}
"""99.9% of the chi-square distribution, by degrees of freedom (published tables)."""
UPDATES = 10_000


def chi_square(drawn: Iterable[Any], cells: int) -> float:
    counts = Counter(drawn)
    expected = counts.total() / cells
    return sum((count - expected) ** 2 for count in counts.values()) / expected + expected * (cells - len(counts))


def assert_uniform(drawn: Iterable[Any], cells: int) -> None:
    assert 0 < chi_square(drawn, cells) < QUANTILES[cells - 1]


def make_criterion(task: Any) -> CtcCriterion:
    return CtcCriterion(CtcCriterionConfig(zero_infinity=True, sentence_avg=False, post_process="letter"), task)


# --- sampling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["compressed_pretraining", "compressed_finetuning"])
def test_points_are_uniform_and_independent(make_task: Callable[..., Any], name: str) -> None:
    task = make_task(name)
    points = [task.points_of_update(update) for update in range(UPDATES)]
    assert {len(drawn) for drawn in points} == {1}
    assert_uniform((str(point) for (point,) in points), 16)
    assert_uniform((point.squeeze for (point,) in points), 4)
    assert_uniform(((str(a), str(b)) for (a,), (b,) in itertools.pairwise(points)), 256)
    sandwiches = [make_task(name, sandwich=2).points_of_update(update) for update in range(0, UPDATES, UPDATES // 4)]
    assert {tuple(map(str, sandwich[:2])) for sandwich in sandwiches} == {("1,1,1", "4,2,2")}
    assert [sandwich[2] for sandwich in sandwiches] == [points[update][0] for update in range(0, UPDATES, UPDATES // 4)]


def test_two_random_points_of_a_sandwich_are_independent(make_task: Callable[..., Any]) -> None:
    task = make_task(sandwich=2)
    drawn = [task.points_of_update(update)[2:] for update in range(UPDATES)]
    assert_uniform(((str(first), str(second)) for first, second in drawn), 256)


def test_layer_wise_factors_are_uniform_in_each_layer(
    make_task: Callable[..., Any], make_model: Callable[..., Any]
) -> None:
    task = make_task(layer_wise=True)
    layers = len(make_model(task).w2v_encoder.w2v_model.encoder.layers)
    points = [task.points_of_update(update)[0] for update in range(UPDATES)]
    spread = [(point.squeeze, *point.pools_per_layer(layers)) for point in points]
    assert layers == 2
    for layer in (1, 2):
        for pool in (0, 1):
            assert_uniform((row[layer][pool] for row in spread), 2)
    assert_uniform((row[0] for row in spread), 4)
    assert_uniform(spread, 64)


def test_points_depend_only_on_seed_and_update(make_task: Callable[..., Any]) -> None:
    first, again, other = (make_task(seed=seed, sandwich=1) for seed in (1, 1, 2))
    sequence = [first.points_of_update(update) for update in range(50)]
    torch.manual_seed(5)
    assert [again.points_of_update(update) for update in reversed(range(50))] == sequence[::-1]
    assert [other.points_of_update(update) for update in range(50)] != sequence


def test_a_single_point_and_listed_points(make_task: Callable[..., Any]) -> None:
    point = CompressionPoint(2, 1, 2)
    single = make_task(point="2,1,2")
    assert single.compression_space() == CompressionSpace(points=(point,))
    assert {tuple(single.points_of_update(update)) for update in range(20)} == {(point,)}
    listed = make_task(points=["1,1,1", "4,2,2"])
    assert_uniform((str(listed.points_of_update(update)[0]) for update in range(UPDATES)), 2)
    assert make_task().compression_space() == CompressionSpace()


def test_weights_of_points(make_task: Callable[..., Any]) -> None:
    points = ["1,1,1", "2,1,1", "4,2,2"]
    task = make_task(points=points, point_weights=[2.0, 1.0, 1.0])
    drawn = [task.points_of_update(update)[0] for update in range(UPDATES)]
    # The first point counts as two cells, by the parity of its updates.
    assert_uniform(((str(each), each.squeeze == 1 and update % 2) for update, each in enumerate(drawn)), 4)
    assert task.compression_space() == make_task(points=points).compression_space()
    again = make_task(points=points, point_weights=[4.0, 2.0, 2.0])
    assert [again.points_of_update(update)[0] for update in range(50)] == drawn[:50]
    sandwich = make_task(points=points, point_weights=[2.0, 1.0, 1.0], sandwich=1)
    assert [sandwich.points_of_update(update)[2] for update in range(50)] == drawn[:50]
    single = make_task(points=points, point_weights=[2.0, 1.0, 1.0], point="2,1,1")
    assert {str(single.points_of_update(update)[0]) for update in range(50)} == {"2,1,1"}


@pytest.mark.parametrize(
    ("curriculum", "order"),
    [("full_first", ["1,1,1", "2,1,1", "3,1,1", "4,1,1"]), ("squeezed_first", ["4,1,1", "3,1,1", "2,1,1", "1,1,1"])],
)
def test_points_join_in_the_order_of_the_curriculum(
    make_task: Callable[..., Any], curriculum: str, order: list[str]
) -> None:
    pools = {"query_pool": [1], "key_value_pool": [1]}
    task = make_task(**pools, curriculum=curriculum, curriculum_updates=400)
    drawn = [str(task.points_of_update(update)[0]) for update in range(800)]
    for stage in range(4):
        assert set(drawn[100 * stage : 100 * (stage + 1)]) == set(order[: stage + 1])
    plain = make_task(**pools)
    assert drawn[400:] == [str(plain.points_of_update(update)[0]) for update in range(400, 800)]
    listed = make_task(points=["2,1,1", "1,1,1"], point_weights=[9.0, 1.0], curriculum=curriculum, curriculum_updates=2)
    assert str(listed.points_of_update(0)[0]) == ("1,1,1" if curriculum == "full_first" else "2,1,1")
    later = Counter(str(listed.points_of_update(update)[0]) for update in range(2, 1000))
    assert later["2,1,1"] > 5 * later["1,1,1"]


# --- several points in a batch ------------------------------------------------------------------------------------


def test_each_part_of_a_batch_has_its_own_point(
    make_task: Callable[..., Any], make_model: Callable[..., Any], batch: Callable[..., Any], optimizer: Any
) -> None:
    """The gradient is that of the stock criterion for each utterance alone, at the point of its part."""
    task = make_task(points_per_batch=2)
    model, criterion, sample = make_model(task), make_criterion(task), batch()
    first, second = task.points_of_update(3)
    assert first != second
    assert first == make_task().points_of_update(3)[0]
    model.train()
    losses, sizes = [], []
    for index, point in enumerate((first, second)):
        part = {
            **{name: sample[name][index : index + 1] for name in ("id", "target", "target_lengths")},
            "net_input": {name: value[index : index + 1] for name, value in sample["net_input"].items()},
            "nsentences": 1,
            "ntokens": int(sample["target_lengths"][index]),
        }
        loss, size, _ = criterion(model, at_point(part, point))
        loss.backward()
        losses.append(loss.item())
        sizes.append(size)
    expected = {name: p.grad for name, p in model.named_parameters()}

    model.zero_grad(set_to_none=True)
    loss, size, log = task.train_step(sample, model, criterion, optimizer, 3)
    assert size == sum(sizes) == sample["ntokens"]
    assert loss.item() == pytest.approx(sum(losses), rel=1e-6) == log["loss"]
    assert log["nsentences"] == 2
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (expected[name] is None)
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name])


def test_a_batch_with_fewer_utterances_than_parts(
    make_task: Callable[..., Any], make_model: Callable[..., Any], batch: Callable[..., Any], optimizer: Any
) -> None:
    """All points must be trained, as on ranks with larger batches."""
    task = make_task(points=["1,1,1", "2,1,1", "3,1,1", "4,1,1"], points_per_batch=3)
    model, criterion, sample = make_model(task, learned_upsampling=[2, 3, 4]), make_criterion(task), batch()
    update = next(update for update in range(100) if len(set(task.points_of_update(update))) == 3)
    _, size, log = task.train_step(sample, model, criterion, optimizer, update)
    assert size == sample["ntokens"]
    assert log["nsentences"] == 2
    upsampling = model.w2v_encoder.w2v_model.encoder.upsampling
    trained = {int(squeeze) for squeeze, layer in upsampling.items() if layer.weight.grad is not None}
    assert trained == {point.squeeze for point in task.points_of_update(update)} - {1}


# --- the sandwich -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"apply_mask": True, "mask_prob": 0.4, "mask_length": 3}], ids=["", "mask"])
def test_the_gradient_is_the_mean_of_the_points_gradients(
    make_task: Callable[..., Any],
    make_model: Callable[..., Any],
    batch: Callable[..., Any],
    optimizer: Any,
    settings: dict[str, Any],
) -> None:
    """The expected gradient is that of the stock criterion at each point, with the same masks."""
    task = make_task(sandwich=2)
    model, criterion, sample = make_model(task, **settings), make_criterion(task), batch()
    points = task.points_of_update(7)
    assert len(set(points)) == 4
    model.train()
    expected: dict[str, torch.Tensor] = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    losses = []
    for point in points:
        torch.manual_seed(11)
        model.zero_grad()
        loss, size, _ = criterion(model, at_point(sample, point))
        loss.backward()
        losses.append(loss.item())
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                expected[name] += parameter.grad / len(points)
    assert len({round(loss, 4) for loss in losses}) == 4

    model.zero_grad()
    torch.manual_seed(11)
    loss, sample_size, log = task.train_step(sample, model, criterion, optimizer, 7)
    assert sample_size == size == 7
    assert log["loss"] == pytest.approx(sum(losses) / 4, rel=1e-6)
    assert loss.item() == pytest.approx(log["loss"], rel=1e-6)
    assert log["nsentences"] == 2
    assert "point" not in sample["net_input"]
    for name, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sandwich", [0, 1])
def test_a_dummy_batch_has_no_gradient(
    make_task: Callable[..., Any],
    make_model: Callable[..., Any],
    batch: Callable[..., Any],
    optimizer: Any,
    sandwich: int,
) -> None:
    task = make_task(sandwich=sandwich)
    model = make_model(task)
    task.train_step(batch(), model, make_criterion(task), optimizer, 0, ignore_grad=True)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_random_numbers_advance_after_a_sandwich(
    make_task: Callable[..., Any], make_model: Callable[..., Any], batch: Callable[..., Any], optimizer: Any
) -> None:
    """The next batch of the update has other masks."""
    task = make_task(sandwich=1)
    model = make_model(task, apply_mask=True, mask_prob=0.4, mask_length=3)
    before = torch.get_rng_state()
    task.train_step(batch(), model, make_criterion(task), optimizer, 0)
    assert not torch.equal(torch.get_rng_state(), before)


# --- validation ---------------------------------------------------------------------------------------------------


def validate(task: Any, model: Any, batches: list[dict[str, Any]], processes: int = 1) -> dict[str, float]:
    """Return the metrics of fairseq's validation, with the values of `processes` processes summed."""
    criterion = make_criterion(task)
    with metrics.aggregate(new_root=True) as meters:
        for index in range(0, len(batches), processes):
            logs = [task.valid_step(sample, model, criterion)[2] for sample in batches[index : index + processes]]
            task.reduce_metrics([{name: sum(log[name] for log in logs) for name in logs[0]}], criterion)
    return {name: value for name, value in meters.get_smoothed_values().items() if name not in ("wps", "wpb", "bsz")}


def test_metrics_of_points_equal_those_of_separate_validations(
    make_task: Callable[..., Any], make_model: Callable[..., Any], batch: Callable[..., Any]
) -> None:
    points = ["2,1,2", "1,1,1", "4,2,2"]
    task = make_task(valid_points=points)
    model = make_model(task)
    batches = [batch(8000, 0), batch(16000, 1), batch(6000, 2), batch(12000, 3)]
    together, two_processes = validate(task, model, batches), validate(task, model, batches, processes=2)
    alone = {point: validate(make_task(point=point), model, batches) for point in points}
    names = {"loss", "nll_loss", "uer", "wer", "raw_wer"} & alone["1,1,1"].keys()
    assert {"loss", "uer", "wer"} <= names
    for point in points:
        label = CompressionPoint.parse(point).label
        assert {name: together[f"{name}_{label}"] for name in names} == {name: alone[point][name] for name in names}
    assert {name: together[name] for name in alone["2,1,2"]} == alone["2,1,2"]
    for name in names:
        assert together[f"{name}_mean"] == pytest.approx(sum(alone[point][name] for point in points) / 3, abs=6e-4)
        assert two_processes[f"{name}_mean"] == pytest.approx(together[f"{name}_mean"], abs=2e-3)
        assert two_processes[f"{name}_s4_q2_k2"] == pytest.approx(together[f"{name}_s4_q2_k2"], abs=2e-3)
    assert len({alone[point]["loss"] for point in points}) == 3
    assert not {name for name in together if "ntokens_" in name or "@" in name}


def test_without_points_validation_equals_stock(
    make_task: Callable[..., Any], make_model: Callable[..., Any], batch: Callable[..., Any]
) -> None:
    task, stock = make_task(), make_task("audio_finetuning")
    model = make_model(task)
    assert validate(task, model, [batch()]) == validate(stock, model, [batch()])
    at_default = validate(make_task(point="1,1,1"), model, [batch()])
    assert validate(task, model, [batch()]) == at_default


# --- invalid settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"squeeze": []}, "task.squeeze is []; it must list one factor or more, each once"),
        ({"query_pool": [1, 0]}, "task.query_pool holds 0; a factor must be a whole number from 1 to 16"),
        ({"key_value_pool": [2, 2]}, "task.key_value_pool is [2, 2]; it must list"),
        ({"points": ["2,1"]}, "task.points: compression point '2,1' cannot be read; it must be S,Q,K"),
        ({"points": ["2,1,1", "2,1,1"]}, "task.points must list each point once"),
        ({"points": ["2,1,1"], "layer_wise": True}, "task.layer_wise samples factors; it must be false with"),
        ({"point_weights": [1.0]}, "task.point_weights is [1.0]; it must be empty or have a finite value above 0 for"),
        ({"points": ["1,1,1", "2,1,1"], "point_weights": [1.0]}, "for each of the 2 in task.points"),
        ({"points": ["1,1,1", "2,1,1"], "point_weights": [1.0, 0.0]}, "task.point_weights is [1.0, 0.0]; it must"),
        ({"points": ["2,1,1"], "point_weights": [float("nan")]}, "task.point_weights is [nan]; it must"),
        ({"point": "half"}, "task.point: compression point 'half' cannot be read"),
        ({"valid_points": ["2,1,99"]}, "task.valid_points: compression point: `key_value_pool` holds 99"),
        ({"valid_points": ["2,1,1", "2,1,1"]}, "task.valid_points: it must list each point once"),
        ({"curriculum": "full_first"}, "task.curriculum_updates is 0; it must be 1 or above with task.curriculum=full"),
        ({"curriculum_updates": 5}, "task.curriculum_updates is 5; it must be 0 without a curriculum"),
        ({"curriculum": "full_first", "curriculum_updates": 5, "layer_wise": True}, "must be none with task.layer"),
        ({"points_per_batch": 0}, "task.points_per_batch is 0; it must be 1 or above"),
        ({"points_per_batch": 2, "sandwich": 1}, "task.points_per_batch is 2; it must be 1 with task.sandwich"),
        ({"sandwich": -1}, "task.sandwich is -1; it must be 0 or above"),
        ({"sandwich": 1, "point": "2,1,1"}, "task.sandwich is 1; it must be 0 with only one point"),
        ({"inplace_distillation_weight": 1.0}, "task.inplace_distillation_weight is 1.0, but the largest point"),
        ({"inplace_distillation_weight": -1.0, "sandwich": 1}, "is -1.0; it must be 0 or above"),
        ({"inplace_distillation_weight": float("nan"), "sandwich": 1}, "is nan; it must be 0 or above"),
    ],
    ids=str,
)
def test_invalid_settings_are_rejected(make_task: Callable[..., Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        make_task(**settings)
    assert message in str(error.value)
    assert str(error.value).startswith("task.")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"point": "1,1:1:2,1"}, "point"),
        ({"points": ["1,1:1:2,1"]}, "points"),
        ({"valid_points": ["1,2,1:1:2"]}, "valid_points"),
    ],
    ids=str,
)
def test_points_for_another_depth_are_rejected(
    make_task: Callable[..., Any], make_model: Callable[..., Any], settings: dict[str, Any], field: str
) -> None:
    with pytest.raises(
        InputError, match=rf"task\.{field}: compression point .* has 3 factors, but the network has 2 layers"
    ):
        make_model(make_task(**settings))


def test_a_model_without_points_is_rejected(make_task: Callable[..., Any]) -> None:
    task = make_task("compressed_pretraining")
    layers = {"encoder_layers": 1, "encoder_embed_dim": 16, "encoder_attention_heads": 2}
    cfg = OmegaConf.merge(OmegaConf.structured(Wav2Vec2Config), {"_name": "wav2vec2", **layers})
    with pytest.raises(InputError, match="accepts no compression point; task=compressed_pretraining needs sew, stoch"):
        task.build_model(cfg)


def test_a_model_that_ignores_the_point_is_rejected(
    make_task: Callable[..., Any], tiny_model: Callable[..., Any]
) -> None:
    """Stock `wav2vec_ctc` around a network of this package accepts any argument and ignores it."""
    network = {**tiny_model().header.architecture.to_fairseq(), "_name": "stochastic_sew", "w2v_args": None}
    pretrained = {"model": network, "task": {"_name": "audio_pretraining", "data": "", "normalize": True}}
    cfg = OmegaConf.create({"_name": "wav2vec_ctc", "w2v_args": pretrained, "normalize": True, "data": ""})
    assert make_task("audio_finetuning").build_model(cfg)
    with pytest.raises(InputError, match="model=wav2vec_ctc accepts no compression point; task=compressed_finetuning"):
        make_task().build_model(cfg)
