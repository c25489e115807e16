"""Model files read without torch: the same tensors, and the errors of damaged files."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from w2v_compress.errors import InputError
from w2v_compress.model_file.storage import ModelFile, quantize_file, write_model
from w2v_compress.model_file.tensor_file import TensorFile

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_every_type_are_read_in_fp32(
    dtype: torch.dtype, tiny_model: Callable[..., ModelFile], tmp_path: Path
) -> None:
    model = tiny_model()
    state = {name: tensor.to(dtype) for name, tensor in model.state.items()}
    path = tmp_path / "model.safetensors"
    write_model(path, ModelFile(model.header, state))
    file = TensorFile.read(path)
    assert file.places.keys() == state.keys()
    for name, tensor in state.items():
        array = file.array(name)
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, tensor.float().numpy())


def test_int8_tensors_stay_int8(tiny_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8.safetensors"
    quantize_file(tiny_path, path)
    assert TensorFile.read(path).array("proj.weight").dtype == np.int8


def test_writing_to_the_mapped_bytes_leaves_the_file(tiny_path: Path) -> None:
    before = tiny_path.read_bytes()
    TensorFile.read(tiny_path).content[:] = 0
    assert tiny_path.read_bytes() == before


def test_a_weight_of_the_wrong_type_is_named(tiny_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8.safetensors"
    quantize_file(tiny_path, path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["proj.weight"]["dtype"] = "U8"
    text = json.dumps(header).encode().ljust(length)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(InputError, match=r"int8.safetensors: the tensor `proj.weight` has type U8; it must be int8"):
        TensorFile.read(path)


def test_reading_imports_no_torch(tiny_path: Path) -> None:
    program = f"""
import sys
from w2v_compress.model_file.tensor_file import TensorFile, describe_model
TensorFile.read({str(tiny_path)!r}).array("proj.weight")
describe_model({str(tiny_path)!r})
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
