"""What each part costs, and the choice of the parts to keep."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from w2v_compress.errors import InputError
from w2v_compress.evaluation import sensitivity
from w2v_compress.evaluation.sensitivity import Material, choose_kept, measure_parts, quantize_within
from w2v_compress.model_file.storage import ModelFile, quantize_file, read_header, write_model
from w2v_compress.runtime.recognizer import Recognizer


@pytest.fixture
def uneven(tiny_model: Callable[..., ModelFile], tmp_path: Path) -> Path:
    """A model whose layer 1 quantizes worse than the rest: one weight a row drowns the others."""
    model = tiny_model()
    weight = model.state["w2v_model.encoder.layers.1.fc2.weight"]
    weight[:, 0] = 1000 * weight.abs().max()
    path = tmp_path / "uneven.safetensors"
    write_model(path, model)
    return path


@pytest.fixture
def material(wav: Callable[..., Path], uneven: Path) -> Material:
    """Two utterances with the texts that the floating-point model writes: its WER is 0."""
    paths = [wav(f"{number}.wav", 1.0 + number, seed=number) for number in range(2)]
    return Material(list(paths), Recognizer.load(uneven).transcribe(paths))


def test_parts_by_what_they_cost(uneven: Path, material: Material) -> None:
    seen = []
    costs = measure_parts(uneven, "full", material, lambda done, total: seen.append((done, total)))
    assert costs[0].part == "layers.1"
    assert [cost.logit_error for cost in costs] == sorted((cost.logit_error for cost in costs), reverse=True)
    assert all(cost.logit_error > 0 and cost.wer_increase is not None for cost in costs)
    assert seen == [(count, len(costs)) for count in range(1, len(costs) + 1)]
    assert {cost.part for cost in costs} == {
        *(f"extractor.{index}" for index in range(1, 7)),
        *("projection", "positional", "layers.0", "layers.1", "head"),
    }
    (head,) = [cost for cost in costs if cost.part == "head"]
    assert head.parameters == 32 * 32 + 32


def test_error_is_relative_and_ignores_what_the_softmax_ignores(uneven: Path) -> None:
    reference = sensitivity.run(Recognizer.load(uneven), Material.noise())
    other = sensitivity.Outcome([1.1 * logits for logits in reference.logits])
    assert other.error(reference) == pytest.approx(0.1, rel=1e-4)
    assert all(logits.mean(-1).abs().max() < 1e-4 for logits in reference.logits)


def test_noise_serves_where_there_are_no_texts(uneven: Path) -> None:
    costs = measure_parts(uneven, "paper", Material.noise())
    assert costs[0].part == "layers.1"
    assert all(cost.wer_increase is None for cost in costs)
    assert len(costs) == 4


def test_an_int8_file_and_bad_audio_are_refused(uneven: Path, tmp_path: Path) -> None:
    small = tmp_path / "int8.safetensors"
    quantize_file(uneven, small)
    with pytest.raises(InputError, match=r"int8.safetensors: already quantized \(full\)"):
        measure_parts(small, "full", Material.noise())
    with pytest.raises(InputError, match=r"absent.wav"):
        measure_parts(uneven, "full", Material([tmp_path / "absent.wav"], ["A"]))


@pytest.mark.parametrize(
    ("limit", "keep", "expected"),
    [
        (0.5, [], []),
        (0.2, [], ["a"]),
        (0.1, [], ["a", "b"]),
        (0.0, [], ["a", "b", "c"]),
        (-1.0, [], ["a", "b", "c"]),  # nothing is left to keep
        (0.1, ["c"], ["c", "a"]),
        (0.0, ["b"], ["b", "a", "c"]),
    ],
)
def test_fewest_parts_are_kept(limit: float, keep: list[str], expected: list[str]) -> None:
    costs = {"a": 0.3, "b": 0.1, "c": 0.1}
    asked = []

    def wer(kept: Sequence[str]) -> float:
        asked.append(list(kept))
        return sum(cost for part, cost in costs.items() if part not in kept)

    assert choose_kept(list(costs), wer, limit, keep) == expected
    assert asked[-1] == expected
    assert [len(kept) for kept in asked] == list(range(len(keep), len(expected) + 1))


def test_file_is_written_with_the_parts_that_hold_the_limit(
    uneven: Path, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With WERs as if layer 1 alone cost anything."""
    monkeypatch.setattr(
        sensitivity,
        "_wer",
        lambda recognizer, _: (
            0.3 if "layers.1" not in (recognizer.header.quantization or {"keep": ["layers.1"]})["keep"] else 0.1
        ),
    )
    costs = [sensitivity.PartCost(part, 1, error, 0.0) for part, error in (("head", 0.2), ("layers.1", 0.1))]
    out = tmp_path / "out.safetensors"
    assert quantize_within(uneven, out, "full", material, 0.0, costs) == ["head", "layers.1"]
    assert read_header(out).quantization == {"scheme": "full", "keep": ["head", "layers.1"]}
    assert quantize_within(uneven, out, "full", material, 0.2, costs) == []
    assert quantize_within(uneven, out, "full", material, 0.0, costs, ["layers.1"]) == ["layers.1"]
