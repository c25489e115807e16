"""Model files and checkpoints that earlier versions wrote load, and give the output that they gave."""

from pathlib import Path

import numpy as np
import pytest
import torch

from w2v_compress.interop.fairseq_checkpoint import read_checkpoint, read_initial
from w2v_compress.model_file.tensor_file import read_header
from w2v_compress.runtime.engines.names import EngineName
from w2v_compress.runtime.engines.torch_engine import TorchEngine
from w2v_compress.runtime.recognizer import Recognizer

FOLDER = Path(__file__).parent / "fixtures" / "written_before"
with np.load(FOLDER / "log_probs.npz") as arrays:
    WRITTEN = dict(arrays)
AUDIO = WRITTEN.pop("audio")


def recognizer(path: Path, engine: EngineName) -> Recognizer:
    if path.suffix == ".safetensors":
        return Recognizer.load(path, engine=engine, precision="int8" if path.name.startswith("int8") else "fp32")
    if path.name == "stochastic_sew.pt":  # pre-trained: a unit matrix in place of the CTC head shows the context
        model = read_initial(path).model
        model.state["proj.weight"] = torch.eye(*model.state["proj.weight"].shape)
    else:
        model = read_checkpoint(path).model
    return Recognizer(TorchEngine(model.build()), model.header)


def test_every_file_has_its_output() -> None:
    files = {path.name for path in FOLDER.iterdir() if path.suffix in (".pt", ".safetensors")}
    assert {name.split()[0] for name in WRITTEN} == files


@pytest.mark.parametrize("engine", ["openvino", "torch"])
@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_output_is_equal(name: str, engine: EngineName) -> None:
    file, point = name.split()
    log_probs = recognizer(FOLDER / file, engine).emissions(AUDIO, 16_000, point=point)
    if file.startswith("int8"):
        # int8 rounds activations, so another order of sums may move a value by a step; OpenVINO does not round them.
        tolerance = 0.02 if engine == "openvino" else 0.005
        assert np.linalg.norm(log_probs - WRITTEN[name]) < tolerance * np.linalg.norm(WRITTEN[name])
    else:
        np.testing.assert_allclose(log_probs, WRITTEN[name], rtol=1e-6, atol=5e-5)


def test_the_header_of_an_elastic_model_is_complete() -> None:
    header = read_header(FOLDER / "elastic.safetensors")
    assert [str(point) for point in header.space.points] == ["1,1,1", "2,1,1", "2,1,2"]
    assert str(header.point) == "2,1,1"
    assert header.sweep is not None
    assert [measured.wer for measured in header.sweep.points] == [0.1, 0.2, pytest.approx(0.3)]
    assert header.architecture.learned_upsampling == (2,)
