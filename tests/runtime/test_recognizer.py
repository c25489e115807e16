"""The recognizer: inputs, batching, compression points, precision, errors, and independence of fairseq."""

import dataclasses
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import w2v_compress
from w2v_compress.data.audio import read_audio
from w2v_compress.data.normalization import normalize
from w2v_compress.errors import InputError
from w2v_compress.model_file.storage import ModelFile, quantize_file, write_model
from w2v_compress.nn.compression import CompressionPoint, CompressionSpace
from w2v_compress.runtime import batching
from w2v_compress.runtime.recognizer import Recognizer, Transcript


@pytest.fixture(params=["openvino", "torch"])
def recognizer(request: pytest.FixtureRequest, tiny_path: Path) -> Recognizer:
    return w2v_compress.load(str(tiny_path), engine=request.param, precision="fp32")


def test_emissions_are_the_networks_log_probabilities(
    recognizer: Recognizer, tiny_model: Callable[..., ModelFile], wav: Callable[..., Path]
) -> None:
    path = wav("a.wav", 1.0)
    with torch.inference_mode():
        logits, _ = tiny_model().build()(torch.from_numpy(normalize(read_audio(path)))[None])
    # The largest logit is 30, and in fp32 both computations differ from fp64 by 2e-5.
    np.testing.assert_allclose(recognizer.emissions(path), logits[0].log_softmax(-1), rtol=0, atol=6e-5)


def test_files_arrays_tensors_and_lists_give_the_same_text(recognizer: Recognizer, wav: Callable[..., Path]) -> None:
    path = wav("a.wav", 1.5)
    samples, rate = soundfile.read(path, dtype="float32")
    text = recognizer.transcribe(path)
    assert len(text) > 5
    assert recognizer.transcribe(str(path)) == text
    assert recognizer.transcribe(samples, rate) == text
    assert recognizer.transcribe(torch.from_numpy(samples), rate) == text
    assert recognizer.transcribe([samples, samples], rate) == [text, text]
    assert recognizer.transcribe([]) == []


@pytest.mark.parametrize("engine", ["openvino", "torch"])
@pytest.mark.parametrize("extractor_mode", ["layer_norm", "default"])
def test_a_batch_of_mixed_lengths_gives_each_what_it_gets_alone(
    tiny_model: Callable[..., ModelFile],
    wav: Callable[..., Path],
    extractor_mode: str,
    engine: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model(extractor_mode=extractor_mode)
    write_model(tmp_path / "model.safetensors", model)
    recognizer = Recognizer.load(tmp_path / "model.safetensors", engine=engine, precision="fp32", streams=2)
    monkeypatch.setattr(batching, "MAX_PADDING", 1.0)
    paths = [wav(f"{i}.wav", seconds, seed=i) for i, seconds in enumerate((1.0, 0.3, 2.1, 0.03, 1.0, 0.7))]
    alone = [recognizer.emissions(path) for path in paths]
    for batch_size in (1, 4, 6):
        results = list(recognizer.recognize(paths, batch_size=batch_size))
        for result, expected in zip(results, alone, strict=True):
            assert isinstance(result, Transcript)
            np.testing.assert_allclose(result.log_probs, expected, rtol=0, atol=1e-4)


ELASTIC = CompressionSpace(squeeze=(1, 2), query_pool=(1, 2), key_value_pool=(1,))


@pytest.fixture(params=["openvino", "torch"])
def elastic(request: pytest.FixtureRequest, tiny_model: Callable[..., ModelFile], tmp_path: Path) -> Recognizer:
    """The tiny model with a header that says it was trained for `ELASTIC`; runs at (2, 1, 1) by default."""
    model = tiny_model()
    header = dataclasses.replace(model.header, space=ELASTIC, point=CompressionPoint(2))
    write_model(tmp_path / "elastic.safetensors", dataclasses.replace(model, header=header))
    return Recognizer.load(tmp_path / "elastic.safetensors", engine=request.param, precision="fp32")


def test_runs_at_the_point_asked_for(
    elastic: Recognizer, tiny_model: Callable[..., ModelFile], wav: Callable[..., Path]
) -> None:
    path = wav("a.wav", 1.5)
    audio = torch.from_numpy(normalize(read_audio(path)))[None]
    for asked, point in (
        (None, CompressionPoint(2)),
        ("1,2,1", CompressionPoint(1, 2)),
        (w2v_compress.CompressionPoint(1), CompressionPoint()),
    ):
        with torch.inference_mode():
            expected = tiny_model().build()(audio, None, point)[0][0].log_softmax(-1)
        emissions = elastic.emissions(path, point=asked)
        np.testing.assert_allclose(emissions, expected, rtol=0, atol=4e-5)
        assert elastic.transcribe(path, point=asked) == elastic.transcribe([path], point=asked)[0]
    assert not np.array_equal(elastic.emissions(path), elastic.emissions(path, point="1,1,1"))


def test_a_batch_at_a_point_gives_each_what_it_gets_alone(elastic: Recognizer, wav: Callable[..., Path]) -> None:
    paths = [wav(f"{i}.wav", seconds, seed=i) for i, seconds in enumerate((1.0, 0.33, 2.1, 0.03))]
    for point in ("2,1,1", "2,2,1"):
        for result, path in zip(elastic.recognize(paths, point=point), paths, strict=True):
            assert isinstance(result, Transcript)
            np.testing.assert_allclose(result.log_probs, elastic.emissions(path, point=point), rtol=0, atol=1e-4)


def test_a_point_not_trained_for_warns_once_or_is_refused(elastic: Recognizer, wav: Callable[..., Path]) -> None:
    path = wav("a.wav", 0.5)
    message = "not trained for the compression point 3,1,1; it was for S of 1 2, Q of 1 2, K of 1"
    with pytest.warns(UserWarning, match=message):
        elastic.transcribe(path, point="3,1,1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        elastic.transcribe([path, path], point="3,1,1")
        elastic.transcribe(path, point="2,2,1", strict=True)
    for refuse in (elastic.transcribe, elastic.emissions):
        with pytest.raises(InputError, match=message):
            refuse(path, point="3,1,1", strict=True)
    with pytest.raises(InputError, match="`query_pool` has 3 factors, but the network has 2 layers"):
        elastic.recognize([path], point="1,1:1:2,1")
    with pytest.raises(InputError, match="must be S,Q,K"):
        elastic.emissions(path, point="fast")


def test_errors_are_by_file(recognizer: Recognizer, wav: Callable[..., Path], tmp_path: Path) -> None:
    good, short = wav("good.wav", 0.5), wav("short.wav", 0.02)
    results = list(recognizer.recognize([good, short, tmp_path / "absent.wav", good]))
    assert [type(result) is Transcript for result in results] == [True, False, False, True]
    assert str(results[1]) == f"{short}: too short: 20 ms; it must be at least 25 ms"
    assert str(results[2]).startswith(f"{tmp_path / 'absent.wav'}: ")
    with pytest.raises(InputError, match=r"short\.wav: too short"):
        recognizer.transcribe([good, short])
    with pytest.raises(InputError, match="rate"):
        recognizer.transcribe(np.zeros(16_000, np.float32))
    with pytest.raises(InputError, match="`batch_size` is 0"):
        recognizer.transcribe([good], batch_size=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_output_that_is_not_finite_is_an_error_and_no_empty_text(
    tiny_model: Callable[..., ModelFile], tmp_path: Path, wav: Callable[..., Path], value: float
) -> None:
    model = tiny_model()
    model.state["proj.weight"][:, 0] = value
    write_model(tmp_path / "damaged.safetensors", model)
    recognizer = Recognizer.load(tmp_path / "damaged.safetensors", precision="fp32")
    paths = [wav("first.wav", 0.5), wav("second.wav", 0.7)]
    for path, result in zip(paths, recognizer.recognize(paths), strict=True):
        assert isinstance(result, InputError)
        assert str(result).startswith(f"{path}: the network's output is not finite")
    with pytest.raises(InputError, match=r"first\.wav: the network's output is not finite"):
        recognizer.transcribe(paths[0])


def test_the_shortest_audio_that_gives_a_frame(recognizer: Recognizer) -> None:
    samples = np.random.default_rng(0).normal(size=400).astype(np.float32)
    assert recognizer.emissions(samples, 16_000).shape == (1, 32)
    with pytest.raises(InputError, match="too short"):
        recognizer.emissions(samples[:399], 16_000)


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_bf16_stays_close_to_fp32(engine: Any, tiny_path: Path, wav: Callable[..., Path]) -> None:
    path = wav("a.wav", 2.0)
    exact = Recognizer.load(tiny_path, precision="fp32").emissions(path)
    rounded = Recognizer.load(tiny_path, engine=engine, precision="bf16").emissions(path)
    assert rounded.dtype == np.float32
    # On a processor without any bf16 OpenVINO computes in fp32.
    assert engine == "openvino" or not np.array_equal(rounded, exact)
    assert relative_error(rounded, exact) < 0.05


def relative_error(given: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(given - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize("engine", ["auto", "openvino", "torch"])
def test_int8_file(engine: Any, tiny_path: Path, tmp_path: Path, wav: Callable[..., Path]) -> None:
    int8 = tmp_path / "int8.safetensors"
    quantize_file(tiny_path, int8)
    recognizer = Recognizer.load(int8, engine=engine)
    assert recognizer.engine.name == ("openvino" if engine == "openvino" else "torch")
    assert recognizer.engine.precision == "int8" == Recognizer.load(int8, precision="int8").engine.precision
    path = wav("a.wav", 2.0)
    exact = Recognizer.load(tiny_path, precision="fp32").emissions(path)
    assert relative_error(recognizer.emissions(path), exact) < 0.1
    with pytest.raises(InputError, match="must be int8 or auto, not bf16"):
        Recognizer.load(int8, precision="bf16")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"precision": "int8"}, "w2v-compress quantize"),
        ({"precision": "fp8"}, "'fp8' is unknown"),
        ({"device": "abacus"}, "'abacus' is unknown"),
        ({"device": "cuda:99"}, "'cuda:99' does not exist"),
        ({"threads": 0}, "`threads` is 0"),
        ({"threads": 0, "engine": "torch"}, "`threads` is 0"),
        ({"streams": 0}, "`streams` is 0"),
        ({"engine": "steam"}, "'steam' is unknown; it must be one of auto, openvino, torch"),
        ({"engine": "openvino", "device": "cuda"}, "runs on the device cpu, not 'cuda'"),
        ({"engine": "openvino", "group_norm_statistics": "padded"}, "group_norm_statistics"),
    ],
)
def test_refuses_options_that_cannot_be(tiny_path: Path, option: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Recognizer.load(tiny_path, **option)


@pytest.mark.parametrize("quantized", [False, True])
def test_works_where_fairseq_cannot_be_imported(
    quantized: bool, tiny_path: Path, wav: Callable[..., Path], tmp_path: Path
) -> None:
    """Transcription must not import torch either, or torch's compiler where it needs torch: both take seconds."""
    path, model = wav("a.wav", 1.0), tiny_path
    if quantized:
        model = tmp_path / "int8.safetensors"
        quantize_file(tiny_path, model)
    program = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("fairseq", "fairseq_cli", "hydra", "omegaconf", "torchaudio"):
            raise ImportError(f"{{name}} is not to be imported")

sys.meta_path.insert(0, Refuse())
import w2v_compress
print(w2v_compress.load({str(model)!r}).transcribe({str(path)!r}))
print(*({{"torch._dynamo", "sympy", {"'fairseq'" if quantized else "'torch'"}}} & sys.modules.keys()))
try:
    import fairseq
except ImportError:
    print("no fairseq")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{Recognizer.load(model).transcribe(path)}\n\nno fairseq\n"


def test_models_with_an_impossible_state_are_not_written(tiny_model: Callable[..., ModelFile], tmp_path: Path) -> None:
    model = tiny_model()
    del model.state["proj.bias"]
    with pytest.raises(InputError, match=r"proj\.bias"):
        write_model(tmp_path / "out.safetensors", ModelFile(model.header, model.state))
    assert not (tmp_path / "out.safetensors").exists()
