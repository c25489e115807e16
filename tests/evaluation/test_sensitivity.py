"""Cost of quantizing each part, and the choice of parts to keep in floating point."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from w2v_compress.errors import InputError
from w2v_compress.evaluation import sensitivity
from w2v_compress.evaluation.sensitivity import (
    EvaluationSet,
    Outputs,
    PartCost,
    choose_parts_to_keep,
    compute_outputs,
    measure_parts,
    quantize_within_limit,
)
from w2v_compress.model_file.storage import ModelFile, quantize_file, write_model
from w2v_compress.model_file.tensor_file import read_header
from w2v_compress.runtime.recognizer import Recognizer


@pytest.fixture
def uneven(tiny_model: Callable[..., ModelFile], tmp_path: Path) -> Path:
    """A model whose layer 1 quantizes worst: one large weight per row sets the scale."""
    model = tiny_model()
    weight = model.state["w2v_model.encoder.layers.1.fc2.weight"]
    weight[:, 0] = 1000 * weight.abs().max()
    path = tmp_path / "uneven.safetensors"
    write_model(path, model)
    return path


@pytest.fixture
def dataset(wav: Callable[..., Path], uneven: Path) -> EvaluationSet:
    """Two utterances with the floating-point model's own transcripts, so that its WER is 0."""
    paths = [wav(f"{number}.wav", 1.0 + number, seed=number) for number in range(2)]
    return EvaluationSet(list(paths), Recognizer.load(uneven).transcribe(paths))


def test_parts_are_sorted_by_their_cost(uneven: Path, dataset: EvaluationSet) -> None:
    seen = []
    costs = measure_parts(uneven, "full", dataset, progress=lambda done, total: seen.append((done, total)))
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


def test_logit_error_is_relative_and_ignores_each_frames_mean(uneven: Path) -> None:
    reference = compute_outputs(Recognizer.load(uneven), EvaluationSet.noise())
    other = Outputs([1.1 * logits for logits in reference.logits])
    assert other.relative_error(reference) == pytest.approx(0.1, rel=1e-4)
    assert all(np.abs(logits.mean(-1)).max() < 1e-4 for logits in reference.logits)


def test_noise_is_used_without_texts(uneven: Path) -> None:
    costs = measure_parts(uneven, "paper", EvaluationSet.noise())
    assert costs[0].part == "layers.1"
    assert all(cost.wer_increase is None for cost in costs)
    assert len(costs) == 4


def test_int8_files_and_unreadable_audio_are_rejected(uneven: Path, tmp_path: Path) -> None:
    small = tmp_path / "int8.safetensors"
    quantize_file(uneven, small)
    with pytest.raises(InputError, match=r"int8.safetensors: already quantized \(full\)"):
        measure_parts(small, "full", EvaluationSet.noise())
    with pytest.raises(InputError, match=r"absent.wav"):
        measure_parts(uneven, "full", EvaluationSet([tmp_path / "absent.wav"], ["A"]))


@pytest.mark.parametrize(
    ("limit", "keep", "expected"),
    [
        (0.5, [], []),
        (0.2, [], ["a"]),
        (0.1, [], ["a", "b"]),
        (0.0, [], ["a", "b", "c"]),
        (-1.0, [], ["a", "b", "c"]),  # cannot be reached
        (0.1, ["c"], ["c", "a"]),
        (0.0, ["b"], ["b", "a", "c"]),
    ],
)
def test_fewest_parts_are_kept_in_floating_point(limit: float, keep: list[str], expected: list[str]) -> None:
    costs = {"a": 0.3, "b": 0.1, "c": 0.1}
    asked = []

    def wer(kept: Sequence[str]) -> float:
        asked.append(list(kept))
        return sum(cost for part, cost in costs.items() if part not in kept)

    assert choose_parts_to_keep(list(costs), wer, limit, keep) == expected
    assert asked[-1] == expected
    assert [len(kept) for kept in asked] == list(range(len(keep), len(expected) + 1))


def test_file_keeps_the_parts_that_the_limit_needs(
    uneven: Path, dataset: EvaluationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The WER is replaced by one that only layer 1 raises."""
    monkeypatch.setattr(
        sensitivity,
        "measure_wer",
        lambda recognizer, _: (
            0.3 if "layers.1" not in (recognizer.header.quantization or {"keep": ["layers.1"]})["keep"] else 0.1
        ),
    )
    costs = [PartCost(part, 1, error, 0.0) for part, error in (("head", 0.2), ("layers.1", 0.1))]
    out = tmp_path / "out.safetensors"
    assert quantize_within_limit(uneven, out, "full", dataset, 0.0, costs) == ["head", "layers.1"]
    assert read_header(out).quantization == {"scheme": "full", "keep": ["head", "layers.1"]}
    assert quantize_within_limit(uneven, out, "full", dataset, 0.2, costs) == []
    assert quantize_within_limit(uneven, out, "full", dataset, 0.0, costs, ["layers.1"]) == ["layers.1"]
