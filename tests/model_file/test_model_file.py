"""The file format: round trips, and errors that name what is invalid."""

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from w2v_compress.errors import InputError
from w2v_compress.model_file.header import METADATA_KEY
from w2v_compress.model_file.storage import ModelFile, quantize_file, read_model, store_sweep, write_model
from w2v_compress.model_file.sweep import Sweep, SweptPoint
from w2v_compress.model_file.tensor_file import describe_model, read_header
from w2v_compress.nn.acoustic_model import AcousticModel
from w2v_compress.nn.compression import CompressionPoint, CompressionSpace
from w2v_compress.runtime.recognizer import Recognizer


@pytest.fixture
def altered(tiny_path: Path, tmp_path: Path) -> Callable[..., Path]:
    """altered(change) writes the tiny model file after change(metadata, tensors)."""

    def write(change: Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]) -> Path:
        with safe_open(tiny_path, framework="pt") as file:
            values = json.loads(file.metadata()[METADATA_KEY])
        state = load_file(tiny_path)
        change(values, state)
        path = tmp_path / "altered.safetensors"
        save_file(state, path, metadata={METADATA_KEY: json.dumps(values)})
        return path

    return write


def swept(**changes: Any) -> dict[str, Any]:
    """Return the metadata of a sweep, with `changes` in it or in its one point."""
    point = {"point": "1,1,1", "wer": 0.1, "real_time_factor": 0.02, "macs_per_second": 1e9}
    point |= {name: value for name, value in changes.items() if name in point}
    sweep = {"subset": "dev", "precision": "fp32", "machine": {}, "points": [point]}
    return sweep | {name: value for name, value in changes.items() if name in sweep}


def test_round_trip(tiny_model: Callable[..., ModelFile], tmp_path: Path) -> None:
    model = tiny_model()
    point = CompressionPoint(2, (1, 2), 2)
    swept = SweptPoint(point=point, wer=0.1, real_time_factor=0.02, macs_per_second=1e9)
    header = dataclasses.replace(
        model.header,
        space=CompressionSpace(squeeze=(1, 2), layer_wise=True),
        point=point,
        sweep=Sweep(subset="dev", precision="fp32", machine={"processor": "abacus", "cores": 2}, points=(swept,)),
    )
    path = tmp_path / "model.safetensors"
    write_model(path, ModelFile(header, model.state))
    read = read_model(path)
    assert read.header == header == read_header(path)
    assert read.state.keys() == model.state.keys()
    for name, tensor in read.state.items():
        assert torch.equal(tensor, model.state[name]), name


def test_build_returns_the_network_with_its_weights(tiny_model: Callable[..., ModelFile]) -> None:
    model = tiny_model()
    network = model.build()
    assert not network.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, model.state[name]), name
        assert not tensor.requires_grad


def test_each_build_is_a_new_network(tiny_model: Callable[..., ModelFile]) -> None:
    model = tiny_model(extractor_mode="default")
    audio, lengths = torch.randn(2, 8000), torch.tensor([8000, 3000])
    audio[1, 3000:] = 0
    networks = [model.build(group_norm_statistics=kind) for kind in ("valid", "padded", "valid")]
    networks[2].proj = torch.nn.Linear(32, 32)
    with torch.inference_mode():
        valid, padded, changed = (network(audio, lengths)[0] for network in networks)
        alone = networks[0](audio[1:, :3000])[0]
    torch.testing.assert_close(valid[1, : alone.shape[1]], alone[0], rtol=0, atol=1e-4)
    assert (padded[1] - valid[1]).abs().max() > 0.01
    assert (changed[0] - valid[0]).abs().max() > 0.01


@pytest.mark.parametrize("quantized", [False, True])
def test_a_load_builds_one_network(
    quantized: bool, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_path
    if quantized:
        path = tmp_path / "int8.safetensors"
        quantize_file(tiny_path, path)
    built = []
    initialize = AcousticModel.__init__

    def count(self: AcousticModel, *arguments: Any, **options: Any) -> None:
        built.append(self)
        initialize(self, *arguments, **options)

    monkeypatch.setattr(AcousticModel, "__init__", count)
    Recognizer.load(path, engine="torch")
    assert len(built) == 1


def test_half_precision_weights_are_converted_to_fp32(tiny_model: Callable[..., ModelFile]) -> None:
    model = tiny_model()
    half = ModelFile(model.header, {name: tensor.half() for name, tensor in model.state.items()})
    assert {tensor.dtype for tensor in half.build().state_dict().values()} == {torch.float32}


def test_views_into_one_storage_can_be_written(tiny_model: Callable[..., ModelFile], tmp_path: Path) -> None:
    model = tiny_model()
    flat = torch.cat([tensor.flatten() for tensor in model.state.values()])
    parts = flat.split([tensor.numel() for tensor in model.state.values()])
    state = {name: part.view_as(model.state[name]) for name, part in zip(model.state, parts, strict=True)}
    path = tmp_path / "model.safetensors"
    write_model(path, ModelFile(model.header, state))
    assert path.stat().st_size < 1.2 * flat.numel() * 4
    assert torch.equal(read_model(path).state["proj.weight"], model.state["proj.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, s: v.update(format_version=3), "`format_version` is 3; this program reads 1 and 2"),
        (lambda v, s: v.update(format_version=1), r"`compression_points` is None; in format version 1 it must be"),
        (lambda v, s: v.pop("units"), "the field `units` is missing"),
        (lambda v, s: v.update(colour="red"), "the field `colour` is unknown"),
        (lambda v, s: v.update(normalize="yes"), "`normalize` is 'yes'"),
        (lambda v, s: v.update(sample_rate=8000), "`sample_rate` is 8000; it must be 16000"),
        (lambda v, s: v.update(units=3), "`units` must be a JSON object"),
        (lambda v, s: v["units"]["symbols"].pop(), "`units` has 31 symbols; the architecture's `num_units` is 32"),
        (lambda v, s: v.update(compression=[]), "`compression` must be a JSON object"),
        (lambda v, s: v["compression"].pop("point"), "`compression` must have the fields space, point"),
        (lambda v, s: v["compression"].update(point="1,0,1"), "`query_pool` holds 0; a factor must be a whole number"),
        (lambda v, s: v["compression"].update(point=[1, 1, 1]), "it must be S,Q,K"),
        (lambda v, s: v["compression"].update(point="1,1:1:2,1"), "`query_pool` has 3 factors, but the network has 2"),
        (lambda v, s: v["compression"].update(space={"points": ["1,1,1:1:2"]}), "`key_value_pool` has 3 factors"),
        (lambda v, s: v["compression"].update(space={"squeeze": [[1]]}), r"`squeeze` holds \[1\]; a factor must be"),
        (lambda v, s: v["compression"].update(space={"squeeze": [17]}), "`squeeze` holds 17"),
        (lambda v, s: v["compression"].update(space={"squeeze": []}), "`squeeze` is"),
        (lambda v, s: v["compression"].update(space=[]), "compression space"),
        (lambda v, s: v.update(sweep=[]), "`sweep` must be a JSON object of the fields"),
        (lambda v, s: v.update(sweep=swept(machine=3)), "`machine` must be a JSON object"),
        (lambda v, s: v.update(sweep=swept(machine={"cores": []})), "`machine` must hold printable text and numbers"),
        (lambda v, s: v.update(sweep=swept(subset="a\x1b[2J")), "`subset` is .* it must be printable text"),
        (lambda v, s: v.update(sweep=swept(points=[])), "sweep: `points` must list one point or more"),
        (lambda v, s: v.update(sweep=swept(point="9,9")), "it must be S,Q,K"),
        (lambda v, s: v.update(sweep=swept(point="1,1:1:1:2,1")), "`query_pool` has 4 factors"),
        (lambda v, s: v.update(sweep=swept(wer="low")), "`wer` is 'low'; it must be a number of at least 0"),
        (lambda v, s: v.update(sweep=swept(wer=float("nan"))), "is not JSON .NaN is not a finite number"),
        (lambda v, s: v.update(sweep=swept(real_time_factor=-1)), "`real_time_factor` is -1"),
        (lambda v, s: v.update(sweep=swept(macs_per_second=10**400)), "`macs_per_second` is 1000"),
        (lambda v, s: v.update(quantization={}), "`quantization`"),
        (lambda v, s: v.update(quantization={"scheme": "int3"}), "int3"),
        (lambda v, s: v["architecture"].update(wings=2), "unknown field `wings`"),
        (lambda v, s: v["architecture"].update(encoder_layers=3), r"`w2v_model.encoder.layers.2.\S+` is missing"),
        (lambda v, s: v["architecture"].update(encoder_ffn_embed_dim=63), r"has shape \[64\]; it must be \[63\]"),
        (lambda v, s: s.pop("proj.bias"), "the tensor `proj.bias` is missing"),
        (lambda v, s: s.update(extra=torch.zeros(1)), "the tensor `extra` is unknown"),
        (lambda v, s: s.update({"proj.bias": torch.zeros(31)}), r"`proj.bias` has shape \[31\]; it must be \[32\]"),
        (lambda v, s: s.update({"proj.bias": torch.zeros(32).int()}), "`proj.bias` has type torch.int32"),
    ],
)
def test_error_names_the_file_and_the_invalid_field(altered: Callable[..., Path], change: Any, message: str) -> None:
    path = altered(change)
    with pytest.raises(InputError, match=message) as caught:
        read_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "sizes",
    [
        {"encoder_layers": 10**9},
        {"encoder_embed_dim": 32 * 10**9},
        {"encoder_ffn_embed_dim": 10**40},
        {"conv_layers": [[2**40, 2**20, 1]]},
        {"conv_layers": [[16, 2, 2]] * 100_000},
    ],
)
def test_sizes_in_a_file_are_checked_before_allocation(altered: Callable[..., Path], sizes: dict[str, Any]) -> None:
    path = altered(lambda values, state: values["architecture"].update(sizes))
    for read in (read_model, describe_model):
        with pytest.raises(InputError, match=str(path)):
            read(path)


@pytest.mark.parametrize("metadata", [None, {"other": "1"}, {METADATA_KEY: "{"}, {METADATA_KEY: "[" * 100_000}])
def test_metadata_missing_or_malformed(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(InputError, match=METADATA_KEY):
        read_header(path)


def test_truncated_foreign_and_missing_files(tiny_path: Path, tmp_path: Path) -> None:
    whole = tiny_path.read_bytes()
    path = tmp_path / "broken.safetensors"
    for content in (b"", b"hello", whole[:4], whole[:1000], whole[:-1], struct.pack("<Q", 2**60) + whole[8:]):
        path.write_bytes(content)
        for read in (read_model, read_header, describe_model):
            with pytest.raises(InputError, match="not a safetensors file, or truncated"):
                read(path)
    with pytest.raises(InputError, match="no such file"):
        read_model(tmp_path / "absent.safetensors")
    with pytest.raises(InputError, match="is a folder"):
        read_model(tmp_path)


def test_header_of_version_0_1_0_is_read(altered: Callable[..., Path], tiny_path: Path) -> None:
    """Version 0.1.0 had one field for the points, always (1, 1, 1)."""

    def old(values: dict[str, Any], state: dict[str, torch.Tensor]) -> None:
        del values["compression"], values["sweep"], values["architecture"]["learned_upsampling"]
        values |= {"format_version": 1, "compression_points": [[1, 1, 1]]}

    assert read_model(altered(old)).header == read_model(tiny_path).header


def test_a_sweep_is_stored_and_dropped_by_quantization(tiny_model: Callable[..., ModelFile], tmp_path: Path) -> None:
    model, path, int8_path = tiny_model(), tmp_path / "model.safetensors", tmp_path / "int8.safetensors"
    space, point = CompressionSpace(squeeze=(1, 2)), CompressionPoint(2)
    header = dataclasses.replace(model.header, space=space, point=point)
    write_model(path, ModelFile(header, {name: tensor.half() for name, tensor in model.state.items()}))
    measured = Sweep.from_dict(swept())
    for sweep in (Sweep.from_dict(swept(wer=0.2)), measured):
        store_sweep(path, sweep)
    stored = read_model(path)
    assert stored.header == dataclasses.replace(header, sweep=measured)
    assert all(torch.equal(tensor, model.state[name].half()) for name, tensor in stored.state.items())
    quantize_file(path, int8_path)
    assert read_header(int8_path) == dataclasses.replace(header, quantization={"scheme": "full", "keep": []})


def test_points_that_the_network_cannot_run_are_rejected(tiny_model: Callable[..., ModelFile]) -> None:
    model = tiny_model(learned_upsampling=(2,))
    for header in (
        dataclasses.replace(model.header, point=CompressionPoint(3)),
        dataclasses.replace(model.header, space=CompressionSpace()),
    ):
        with pytest.raises(InputError, match="learned to upsample for a squeeze of 2; it must be one of these or 1"):
            ModelFile(header, model.state)


def test_description_counts_parameters_and_bytes(tiny_path: Path, tmp_path: Path) -> None:
    quantized = tmp_path / "int8.safetensors"
    quantize_file(tiny_path, quantized)
    count = sum(tensor.numel() for tensor in load_file(tiny_path).values())
    for path, precision in ((tiny_path, "f32"), (quantized, "int8")):
        description = describe_model(path)
        assert description["parameters"] == count
        assert description["bytes"] == path.stat().st_size
        assert description["precision"] == precision
        json.dumps(description)
