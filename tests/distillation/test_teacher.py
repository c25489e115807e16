"""The frozen teacher and its on-disk cache of logits."""

import dataclasses

import numpy as np
import pytest
import torch

import w2v_compress.models  # noqa: F401  (patches fairseq)
from w2v_compress.distillation.posterior_cache import PosteriorCache
from w2v_compress.distillation.teacher import Teacher
from w2v_compress.errors import InputError
from w2v_compress.model_file.storage import write_model
from w2v_compress.nn.compression import CompressionPoint


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    source, padding = torch.randn(2, 12000), torch.zeros(2, 12000, dtype=torch.bool)
    padding[1, 7000:] = True
    return source.masked_fill(padding, 0), padding


def test_autograd_accepts_the_outputs(tiny_path):
    output = Teacher(tiny_path, precision="fp32").run(*batch(), return_hidden=True)
    assert len(output.hidden) == 2
    scale = torch.ones((), requires_grad=True)
    (scale * output.logits).sum().add((scale * output.hidden[0]).sum()).backward()
    assert scale.grad is not None
    assert not output.logits.requires_grad


def test_the_teacher_runs_at_its_own_point(tiny_path, tiny_model, tmp_path):
    model = tiny_model()
    squeezed = dataclasses.replace(model.header, point=CompressionPoint(2))
    write_model(tmp_path / "squeezed.safetensors", dataclasses.replace(model, header=squeezed))
    source, padding = batch()
    logits = Teacher(tmp_path / "squeezed.safetensors", precision="fp32").logits(source, padding)
    expected, _ = model.build()(source, (~padding).sum(1), CompressionPoint(2))
    torch.testing.assert_close(logits, expected)
    assert not torch.equal(logits, Teacher(tiny_path, precision="fp32").logits(source, padding))


def test_the_points_of_an_update_share_one_run_of_the_teacher(tiny_path, monkeypatch):
    teacher, runs = Teacher(tiny_path), []
    run = teacher.network.run
    monkeypatch.setattr(teacher.network, "run", lambda *args, **options: runs.append(1) or run(*args, **options))
    source, padding = batch()
    logits = teacher.logits(source, padding)
    assert teacher.logits(source, padding) is logits
    assert len(runs) == 1
    other = teacher.logits(2 * source, padding)  # another batch
    assert len(runs) == 2
    assert not torch.equal(other, logits)


def test_the_precision_is_that_of_the_input_or_of_the_setting(tiny_path, caplog):
    source, padding = batch()
    teacher = Teacher(tiny_path)
    with caplog.at_level("INFO"):
        for _ in range(2):
            assert teacher.run(source, padding).logits.dtype == torch.float32  # on any CPU
    assert [record.getMessage() for record in caplog.records] == [f"{tiny_path}: the teacher computes in fp32 on cpu"]
    assert teacher.run(source.bfloat16(), padding).logits.dtype == torch.bfloat16
    assert teacher.run(source.half(), padding).logits.dtype == torch.float16
    assert Teacher(tiny_path, precision="fp32").run(source.half(), padding).logits.dtype == torch.float32
    assert Teacher(tiny_path, precision="bf16").run(source, padding).logits.dtype == torch.bfloat16


def test_the_cache_returns_the_logits_of_the_teacher(tiny_path, tmp_path, monkeypatch):
    source, padding = batch()
    exact = Teacher(tiny_path, precision="fp32").logits(source, padding)
    teacher = Teacher(tiny_path, precision="fp32", cache=tmp_path)
    first = teacher.logits(source, padding)
    runs = []
    run = teacher.run
    monkeypatch.setattr(teacher, "run", lambda *inputs: runs.append(len(inputs[0])) or run(*inputs))
    cached = teacher.logits(source.clone(), padding)
    alone = teacher.logits(source[1:, :7000], None)  # the same utterance without padding, in another batch
    assert runs == []
    valid = exact.shape[1], alone.shape[1]
    for row, frames in enumerate(valid):
        torch.testing.assert_close(first[row, :frames], exact[row, :frames], rtol=0, atol=0)
        torch.testing.assert_close(cached[row, :frames], exact[row, :frames], rtol=1e-3, atol=1e-3)
        assert not cached[row, frames:].any()
        assert not first[row, frames:].any()
    torch.testing.assert_close(alone[0], cached[1, : valid[1]], rtol=0, atol=0)
    teacher.logits(source + 0.1, padding)  # augmented audio is another utterance
    assert runs == [2]


def test_another_teacher_has_another_cache(tiny_path, tiny_model, tmp_path):
    source, padding = batch()
    Teacher(tiny_path, precision="fp32", cache=tmp_path).logits(source, padding)
    other_path = tmp_path / "other.safetensors"
    model = tiny_model()
    model.state["proj.bias"] = model.state["proj.bias"] + 1
    write_model(other_path, model)
    other = Teacher(other_path, precision="fp32", cache=tmp_path)
    expected = Teacher(other_path, precision="fp32").logits(source, padding)[0]
    torch.testing.assert_close(other.logits(source, padding)[0], expected, rtol=0, atol=0)
    paths = {other.cache.path(source[0], dtype) for dtype in (torch.float32, torch.bfloat16)}
    assert len(paths) == 2  # another precision has other logits


def test_extreme_logits_are_clamped(tiny_path, tmp_path):
    cache = PosteriorCache(tmp_path, tiny_path)
    path = cache.path(torch.zeros(5), torch.float32)
    cache.write(path, torch.tensor([[1e6, -1e6, 0.5]]))
    assert cache.read(path).tolist() == [[65504.0, -65504.0, 0.5]]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"no array"])
def test_a_damaged_cache_file_is_rejected(tiny_path, tmp_path, content):
    cache = PosteriorCache(tmp_path, tiny_path)
    path = cache.path(torch.zeros(5), torch.float32)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{path.stem}\.npy: cannot be read from the teacher's cache"):
        cache.read(path)


def test_pickles_in_the_cache_are_not_loaded(tiny_path, tmp_path):
    cache = PosteriorCache(tmp_path, tiny_path)
    path = cache.path(torch.zeros(5), torch.float32)
    path.parent.mkdir(parents=True)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read from the teacher's cache"):
        cache.read(path)
