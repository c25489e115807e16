"""Each runtime computes the logits of our network, within the error of its precision."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from w2v_compress.benchmark.measurement import output_errors
from w2v_compress.benchmark.peers import (
    OURS,
    PEERS,
    Runtime,
    Setting,
    fairseq,
    onnxruntime,
    openvino,
    ours,
    torch_ao,
    torchao,
    transformers,
)
from w2v_compress.data.normalization import normalize
from w2v_compress.model_file.storage import read_model
from w2v_compress.nn import CompressionPoint

MODULES = {
    module.__name__: module for module in (fairseq, onnxruntime, openvino, ours, torch_ao, torchao, transformers)
}
MAX_ERROR = {"fp32": 1e-5, "bf16": 0.05, "int8": 0.1}
"""Largest root mean square of the error, relative to that of the logits."""


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory, tiny_path: Path) -> Setting:
    threads = torch.get_num_threads()
    return Setting(model=tiny_path, folder=tmp_path_factory.mktemp("peers"), precision="fp32", threads=threads)


@pytest.fixture(scope="module")
def waveforms() -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [generator.normal(scale=0.1, size=samples).astype(np.float32) + 0.02 for samples in (16_000, 9_999)]


def expected(path: Path, waveforms: list[np.ndarray], point: str) -> list[np.ndarray]:
    """Logits of our network for single utterances."""
    network = read_model(path).build()
    batches = [torch.from_numpy(normalize(waveform))[None] for waveform in waveforms]
    return [network(audio, None, CompressionPoint.parse(point))[0][0].numpy() for audio in batches]


RUNS = [(runtime, "1,1,1") for runtime in (*OURS, *PEERS.values())]
RUNS += [(runtime, "2,1:2,2") for runtime, _ in RUNS if runtime.every_point and runtime.precision == "fp32"]


@pytest.mark.parametrize(("runtime", "point"), RUNS, ids=[f"{runtime.name} at {point}" for runtime, point in RUNS])
def test_logits_are_those_of_our_network(
    runtime: Runtime, point: str, setting: Setting, waveforms: list[np.ndarray]
) -> None:
    folder = setting.folder / point if runtime.every_point else setting.folder
    folder.mkdir(exist_ok=True)
    chosen = replace(setting, folder=folder, precision=runtime.precision, point=point)
    module = MODULES[runtime.module]
    module.convert(chosen)
    run = module.load(chosen)
    given = waveforms if runtime.normalizes else [normalize(waveform) for waveform in waveforms]
    exact = expected(setting.model, waveforms, point)
    for batch in ([0], [0, 1]):
        outputs = run([given[index] for index in batch])
        assert [logits.dtype for logits in outputs] == [np.float32] * len(batch)
        errors = output_errors(outputs, [exact[index] for index in batch])
        assert errors.relative < MAX_ERROR[runtime.precision]
        if runtime.precision != "fp32":
            assert errors.relative > 1e-5  # the precision is really lower
