"""What a GPU adds: equal results at every point, reduced precision, training, and two processes on one GPU."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from w2v_compress.data.units import Units
from w2v_compress.interop.fairseq_checkpoint import write_checkpoint
from w2v_compress.model_file.storage import read_model
from w2v_compress.runtime.recognizer import Recognizer

POINTS = ["1,1,1", "2,1,1", "3,1,2", "4,2,2"]


def relative_error(log_probs: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(log_probs - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 5e-2)])
def test_parity_with_the_cpu(device: str, tiny_path: Path, point: str, precision: str, tolerance: float) -> None:
    audio = [np.random.default_rng(seed).normal(size=16_000 + 5000 * seed).astype(np.float32) for seed in range(3)]
    cpu = Recognizer.load(tiny_path, engine="torch", precision="fp32")
    other = Recognizer.load(tiny_path, engine="torch", precision=precision, device=device)
    chosen = cpu.checked_point(point)
    expected, found = (each.engine.log_probs(audio, chosen) for each in (cpu, other))
    for first, second in zip(found, expected, strict=True):
        assert relative_error(first, second) < tolerance


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    units, rows = Units.letters(), [str(folder)]
    for index in range(8):
        soundfile.write(folder / f"{index}.wav", np.random.default_rng(index).normal(scale=0.1, size=12_000), 16_000)
        rows.append(f"{index}.wav\t12000")
    (folder / "train.tsv").write_text("\n".join(rows) + "\n")
    (folder / "train.ltr").write_text(f"{units.labels('ONE TWO')}\n" * 8)
    units.write_dictionary(folder / units.dictionary_name)
    return folder


@pytest.fixture
def distil(
    folder: Path, tiny_path: Path, tmp_path: Path, losses: Callable[..., list[float]]
) -> Callable[..., list[float]]:
    """distil(name, device, argument, ...) distils for four updates, and returns the losses."""
    teacher = tmp_path / "teacher.pt"
    write_checkpoint(teacher, read_model(tiny_path))

    def run(name: str, device: str, *arguments: str) -> list[float]:
        config = {
            "common": {"cpu": device == "cpu"},
            "task": {"data": str(folder)},
            "dataset": {"batch_size": 2},
            "model": {"w2v_path": str(tiny_path)},
            "criterion": {"_name": "ctc_distillation", "teacher_checkpoint": str(teacher), "ctc_weight": 0.5},
            "optimization": {"max_update": 4},
        }
        return losses(tmp_path / name, config, *arguments)

    return run


@pytest.mark.parametrize(
    ("setting", "tolerance"),
    [("common.fp16=false", 1e-3), ("common.bf16=true", 5e-2), ("common.fp16=true", 5e-2)],
    ids=["fp32", "bf16", "fp16"],
)
def test_training_equals_the_cpu(
    device: str, distil: Callable[..., list[float]], setting: str, tolerance: float
) -> None:
    if device == "cpu" and "fp16=true" in setting:
        pytest.skip("fairseq trains in fp16 on GPUs only")
    expected, found = distil("cpu", "cpu"), distil("gpu", device, setting)
    assert len(found) == len(expected) == 4
    np.testing.assert_allclose(found, expected, rtol=tolerance)


def test_a_teacher_in_bf16(device: str, distil: Callable[..., list[float]]) -> None:
    fp32, bf16 = (distil(name, device, f"+criterion.teacher_precision={name}") for name in ("fp32", "bf16"))
    np.testing.assert_allclose(bf16, fp32, rtol=5e-2)


def test_two_processes_on_one_gpu(device: str, distil: Callable[..., list[float]]) -> None:
    one = distil("one", device, "optimization.update_freq=[2]")
    # NCCL refuses two ranks on one GPU; gloo takes tensors of GPUs.
    shared = ("distributed_training.distributed_backend=gloo", "distributed_training.device_id=0")
    two = distil("two", device, "--nproc", "2", *shared)
    np.testing.assert_allclose(two, one, rtol=2e-3)
