"""Each runtime computes the logits of our network, within the error of its precision."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import openvino
import pytest
import torch

from w2v_compress import InputError
from w2v_compress.benchmark.measurement import output_errors
from w2v_compress.benchmark.peers import OURS, PEERS, Logits, Runtime, Setting, Waveform
from w2v_compress.data.normalization import normalize
from w2v_compress.model_file.storage import ModelFile, read_model, write_model
from w2v_compress.nn.compression import CompressionPoint
from w2v_compress.processor import processor

POSITIONS = {"conv_pos": 128, "conv_pos_groups": 16, "encoder_embed_dim": 512}
"""The positional convolution of wav2vec 2.0, which CTranslate2 needs; narrower ones are wrong in bf16 with AMX."""
GROUP_NORM = {"extractor_mode": "default", "conv_bias": False, "layer_norm_first": False, "conv_pos_groups": 1}
MAX_ERROR = {"fp32": 1e-5, "bf16": 0.05, "int8": 0.1}
"""Largest root mean square of the error, relative to that of the logits."""
MAX_ERROR_WITH_OVERFLOWS = MAX_ERROR | {"int8": 0.5}
"""The same for runtimes that do not avoid overflows of int8 products on processors that have them."""
UNMASKED = ("ctranslate2-fp32", "ctranslate2-int8")
"""Runtimes that compute padding as audio, even where the model has an attention mask."""


def noise(seconds: Sequence[float], seed: int) -> list[Waveform]:
    generator = np.random.default_rng(seed)
    return [generator.normal(0.02, 0.1, size=round(16_000 * length)).astype(np.float32) for length in seconds]


WAVEFORMS = noise((1.0, 0.625), seed=3)


@pytest.fixture(scope="module")
def make_setting(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., ModelFile]
) -> Callable[..., Setting]:
    """make_setting(name=value, ...) returns the setting of a tiny network with these changes of the architecture."""

    def make(**changes: object) -> Setting:
        folder = tmp_path_factory.mktemp("peers")
        write_model(folder / "tiny.safetensors", tiny_model(**changes))
        return Setting(
            model=folder / "tiny.safetensors", folder=folder, precision="fp32", threads=torch.get_num_threads()
        )

    return make


@pytest.fixture(scope="module")
def setting(make_setting: Callable[..., Setting]) -> Setting:
    return make_setting(**POSITIONS)


@pytest.fixture(scope="module")
def group_norm_setting(make_setting: Callable[..., Setting]) -> Setting:
    return make_setting(**GROUP_NORM)


def for_runtime(runtime: Runtime, waveforms: Sequence[Waveform]) -> list[Waveform]:
    return [waveform if runtime.normalizes else normalize(waveform) for waveform in waveforms]


def max_error(runtime: Runtime) -> float:
    overflows = processor().overflows_int8 and runtime not in OURS
    return (MAX_ERROR_WITH_OVERFLOWS if overflows else MAX_ERROR)[runtime.precision]


def is_lower(precision: str) -> bool:
    """Whether a precision is below fp32 here: OpenVINO computes in fp32 where the processor has no bf16."""
    if precision == "bf16":
        return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return precision == "int8"


def run(runtime: Runtime, setting: Setting, batches: Sequence[Sequence[Waveform]]) -> list[list[Logits]]:
    """Convert the network for a runtime, and run batches of plain audio."""
    calibration = []
    for number, waveform in enumerate(for_runtime(runtime, noise([1.0 + 0.1 * each for each in range(8)], seed=5))):
        calibration.append(setting.folder / f"calibration-{number}.npy")
        np.save(calibration[-1], waveform)
    chosen = replace(setting, precision=runtime.precision, calibration=tuple(calibration))
    module = importlib.import_module(runtime.module)
    module.convert(chosen)
    loaded = module.load(chosen)
    return [loaded(for_runtime(runtime, batch)) for batch in batches]


def expected(setting: Setting, waveforms: Sequence[Waveform]) -> list[Logits]:
    """Logits of our network for single utterances."""
    network, point = read_model(setting.model).build(), CompressionPoint.parse(setting.point)
    batches = [torch.from_numpy(normalize(waveform))[None] for waveform in waveforms]
    with torch.inference_mode():
        return [network(audio, None, point)[0][0].numpy() for audio in batches]


RUNS = [(runtime, "1,1,1") for runtime in (*OURS, *PEERS.values())]
RUNS += [(runtime, "2,1:2,2") for runtime, _ in RUNS if runtime.every_point and runtime.precision == "fp32"]


@pytest.mark.parametrize(("runtime", "point"), RUNS, ids=[f"{runtime.name} at {point}" for runtime, point in RUNS])
def test_logits_are_those_of_our_network(runtime: Runtime, point: str, setting: Setting) -> None:
    folder = setting.folder / point if runtime.files_per_point else setting.folder
    folder.mkdir(exist_ok=True)
    chosen = replace(setting, folder=folder, point=point)
    exact = expected(chosen, WAVEFORMS)
    batches = [WAVEFORMS[:1], WAVEFORMS[:1] * 2 if runtime.name in UNMASKED else WAVEFORMS]
    for outputs, logits in zip(run(runtime, chosen, batches), (exact[:1], exact), strict=True):
        assert [each.dtype for each in outputs] == [np.float32] * len(outputs)
        errors = output_errors(outputs, exact[:1] * len(outputs) if runtime.name in UNMASKED else logits)
        assert errors.relative < max_error(runtime)
        if is_lower(runtime.precision):
            assert errors.relative > 1e-5


@pytest.mark.parametrize("name", ["openvino-fp32", "openvino-int8", "onnxruntime-qdq-int8"])
def test_models_with_a_group_norm_get_no_mask(name: str, group_norm_setting: Setting) -> None:
    """Batches are padded with zeros, as transformers recommends: the output is that of transformers."""
    (exact,) = run(PEERS["transformers-fp32"], group_norm_setting, [WAVEFORMS])
    alone, padded = run(PEERS[name], group_norm_setting, [WAVEFORMS[:1], WAVEFORMS])
    limit = max_error(PEERS[name])
    assert output_errors(alone, expected(group_norm_setting, WAVEFORMS[:1])).relative < limit
    assert output_errors(padded, exact).relative < limit
    assert output_errors(exact, expected(group_norm_setting, WAVEFORMS)).relative > 0.1  # padding matters


def test_ctranslate2_computes_padding_as_audio(setting: Setting) -> None:
    """It has no attention mask: the logits of a batch are those of the padded waveforms."""
    waveforms = [normalize(waveform) for waveform in WAVEFORMS]
    module = importlib.import_module(PEERS["ctranslate2-fp32"].module)
    module.convert(setting)
    outputs = module.load(setting)(waveforms)
    padded = np.zeros_like(waveforms[0])
    padded[: len(waveforms[1])] = waveforms[1]
    with torch.inference_mode():
        logits = read_model(setting.model).build()(torch.from_numpy(padded)[None])[0][0].numpy()
    assert output_errors(outputs[1:], [logits[: len(outputs[1])]]).relative < MAX_ERROR["fp32"]
    assert len(outputs[1]) == len(expected(setting, WAVEFORMS)[1])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (POSITIONS | GROUP_NORM, "CTranslate2 supports neither a group norm nor layer norms after the residual sums"),
        ({"conv_pos": 16}, "CTranslate2 needs a positional convolution with kernel 128 and 16 groups"),
        (
            POSITIONS | {"conv_layers": ((16, 10, 5), *[(16, 3, 2)] * 4)},
            r"CTranslate2 needs convolutions with the strides \(5, 2, 2, 2, 2, 2, 2\)",
        ),
    ],
)
def test_networks_that_ctranslate2_refuses(
    changes: dict[str, object], reason: str, make_setting: Callable[..., Setting]
) -> None:
    with pytest.raises(InputError, match=reason):
        importlib.import_module(PEERS["ctranslate2-int8"].module).convert(make_setting(**changes))


def test_the_tutorial_of_openvino_leaves_convolutions_in_floating_point(setting: Setting) -> None:
    """Its file has four int8 convolutions less than with everything quantized."""
    openvino = pytest.importorskip("openvino")
    types = []
    for name in ("openvino-int8", "openvino-tutorial-int8"):
        run(PEERS[name], setting, [])
        model = openvino.Core().read_model(setting.folder / f"{name}.xml")
        types.append([node.get_type_name() for node in model.get_ops()].count("FakeQuantize"))
    assert types[0] > types[1] > 0
