"""Model files in int8."""

import dataclasses
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from w2v_compress.errors import InputError
from w2v_compress.model_file.storage import ModelFile, quantize_file, read_model, write_model
from w2v_compress.quantization import int8
from w2v_compress.runtime.engines.torch_engine import TorchEngine
from w2v_compress.runtime.recognizer import Recognizer


def test_int8_file_is_smaller_and_computes_nearly_the_same(
    tiny_model: Callable[..., ModelFile], tmp_path: Path
) -> None:
    model = tiny_model(encoder_embed_dim=128, encoder_ffn_embed_dim=512)
    before, after = tmp_path / "fp32.safetensors", tmp_path / "int8.safetensors"
    write_model(before, model)
    quantize_file(before, after)
    assert before.stat().st_size / after.stat().st_size > 3
    audio = torch.randn(1, 8000)
    with torch.inference_mode():
        expected, _ = model.build()(audio)
        logits, _ = read_model(after).build()(audio)
    assert (logits - expected).norm() / expected.norm() < 0.05
    with pytest.raises(InputError, match="already quantized"):
        quantize_file(after, tmp_path / "again.safetensors")


def test_int8_file_of_version_0_1_0_is_read(tiny_path: Path, tmp_path: Path) -> None:
    """Version 0.1.0 named the scheme `int8` and had no `keep`."""
    new, old = tmp_path / "new.safetensors", tmp_path / "old.safetensors"
    quantize_file(tiny_path, new)
    model = read_model(new)
    assert model.header.quantization == {"scheme": "full", "keep": []}
    write_model(old, ModelFile(dataclasses.replace(model.header, quantization={"scheme": "int8"}), model.state))
    audio = torch.randn(1, 8000)
    assert torch.equal(read_model(old).build()(audio)[0], model.build()(audio)[0])
    with pytest.raises(InputError, match=r"old.safetensors: already quantized \(int8\)"):
        quantize_file(old, tmp_path / "again.safetensors")


def test_nothing_is_written_when_scheme_or_part_is_unknown(tiny_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    with pytest.raises(InputError, match="`scheme` is 'int3'; it must be one of full, paper"):
        quantize_file(tiny_path, out, "int3")
    with pytest.raises(InputError, match="`keep` names 'positional'; it must be one of projection, "):
        quantize_file(tiny_path, out, "paper", ["positional"])
    assert not out.exists()


class FloatingMemory(TorchDispatchMode):
    """Records the peak size in bytes of the floating-point tensors that operations return."""

    allocated = 0
    peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and not tensor.is_meta:
                self._allocate(tensor, tensor.numel() * tensor.element_size())
        return result

    def _allocate(self, tensor: torch.Tensor, size: int) -> None:
        self.allocated += size
        self.peak = max(self.peak, self.allocated)
        weakref.finalize(tensor, self._release, size)

    def _release(self, size: int) -> None:
        self.allocated -= size


@pytest.mark.parametrize("units", [True, False])
def test_int8_file_runs_without_its_weights_in_floating_point(
    units: bool, tiny_model: Callable[..., ModelFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Activations of one frame are small, so large tensors would be weights. One module's weights are allowed."""
    model = tiny_model(encoder_layers=12, encoder_embed_dim=128, encoder_ffn_embed_dim=512)
    floating, path = tmp_path / "fp32.safetensors", tmp_path / "int8.safetensors"
    write_model(floating, model)
    quantize_file(floating, path)
    if not units or int8.has_int8_units():
        monkeypatch.setattr(int8, "has_int8_units", lambda: units)
    whole = floating.stat().st_size
    largest = 4 * max(tensor.numel() for tensor in model.state.values())
    with FloatingMemory() as memory, torch.inference_mode():
        engine = TorchEngine.load(path, "int8")
        engine.model(torch.randn(1, 400))
    assert 0 < memory.peak < whole / 4
    assert memory.peak < 6 * largest
    with FloatingMemory() as memory, torch.inference_mode():  # weights in floating point would be detected
        Recognizer.load(floating, engine="torch", precision="bf16")
    assert memory.peak > whole / 3
