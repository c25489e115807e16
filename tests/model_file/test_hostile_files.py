"""Model files that are made to hang, to fill the memory or to be taken in silence end in one line."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from w2v_compress.model_file.header import METADATA_KEY
from w2v_compress.model_file.storage import ModelFile, quantize_file, read_model
from w2v_compress.model_file.tensor_file import TensorFile, describe_model

Rejects = Callable[..., None]
Entries = dict[str, Any]
NAN, INFINITY = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))


@pytest.fixture
def write(tiny_path: Path, tmp_path: Path) -> Callable[..., Path]:
    """write(change) writes the tiny model file with another header; `change` may return the text to write instead."""

    def write(change: Callable[[Entries, int], object], length: int | None = None) -> Path:
        content = tiny_path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        entries = json.loads(content[8:end])
        text = change(entries, len(content) - end)
        header = (text if isinstance(text, str) else json.dumps(entries)).encode()
        path = tmp_path / "hostile.safetensors"
        path.write_bytes(struct.pack("<Q", length or len(header)) + header + content[end:])
        return path

    return write


def metadata(**changes: Any) -> Callable[[Entries, int], None]:
    """Changes fields of our metadata, or their inner fields if both are objects."""

    def change(entries: Entries, _: int) -> None:
        fields = json.loads(entries["__metadata__"][METADATA_KEY])
        for name, value in changes.items():
            inner = isinstance(fields[name], dict) and isinstance(value, dict)
            fields[name] = fields[name] | value if inner else value
        entries["__metadata__"][METADATA_KEY] = json.dumps(fields)

    return change


def text(content: str) -> Callable[[Entries, int], None]:
    """Replaces the text of our metadata."""
    return lambda entries, _: entries["__metadata__"].update({METADATA_KEY: content})


def tensor(shape: list[int], count: int = 1) -> Callable[[Entries, int], None]:
    """Adds empty tensors."""
    return lambda entries, size: entries.update(
        {f"x{number}": {"dtype": "F32", "shape": shape, "data_offsets": [size, size]} for number in range(count)}
    )


SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", *map(str, range(27))]
SWEEP = {"subset": "test", "precision": "fp32", "machine": {}, "points": []}
HOSTILE: dict[str, tuple[Callable[[Entries, int], object], str]] = {
    "17 MB": (lambda *_: "{" + " " * 17_000_000 + "}", "its header has 17000002 bytes; at most 16777216 are allowed"),
    "nesting": (text("[" * 10**6), f"the metadata under `{METADATA_KEY}` is not JSON (it is nested too deeply)"),
    "huge number": (text(f'{{"format_version": {"9" * 5000}}}'), "is not JSON (Exceeds the limit"),
    "NaN": (text('{"format_version": NaN}'), "is not JSON (NaN is not a finite number)"),
    "repeated field": (text('{"a": 1, "a": 2}'), "is not JSON (the name 'a' is repeated)"),
    "list": (text("[]"), f"the metadata under `{METADATA_KEY}` must be a JSON object"),
    "type of the metadata": (lambda entries, _: entries.update(__metadata__=[1]), "not a safetensors file"),
    "tensors": (tensor([1, 0], 30_000), "has shape [1, 0]; it must have at most 3 dimensions, each of at least 1"),
    "rows": (tensor([0, 2**64 - 1]), "has shape [0, 18446744073709551615]"),
    "dimensions": (tensor([0] * 100_000), "has shape [0, 0, 0"),
    "escape": (metadata(units={"symbols": [*SYMBOLS[:-1], "\x1b[2J"]}), r"units: '\x1b[2J' is not a symbol"),
    "units of numbers": (metadata(units={"symbols": [*SYMBOLS[:-1], 1]}), "units: 1 is not a symbol"),
    "repeated unit among many": (
        metadata(units={"symbols": [*SYMBOLS, *(f"a{number}" for number in range(100_000)), "a99999"]}),
        "units: the symbol 'a99999' is listed twice",
    ),
    "width": (metadata(architecture={"encoder_embed_dim": 10**12}), "it must be [32, 1000000000000]"),
    "layers": (metadata(architecture={"encoder_layers": 10**9}), "too many for a file of"),
    "convolutions": (
        metadata(architecture={"conv_layers": [[1, 1, 1]] * 100_000}),
        "architecture: `conv_layers` is [[1, 1, 1]",
    ),
    "factor": (metadata(compression={"point": "17,1,1"}), "compression point: `squeeze` holds 17"),
    "digits of a factor": (metadata(compression={"point": "9" * 5000 + ",1,1"}), "cannot be read; it must be S,Q,K"),
    "type of a point": (metadata(compression={"point": [1, 1, 1]}), "cannot be read; it must be S,Q,K"),
    "points": (metadata(compression={"space": {"points": ["1,1,1"] * 10**4}}), "`points` must list each point once"),
    "factors of layers": (metadata(compression={"point": "1,1:2:1,1"}), "has 3 factors, but the network has 2 layers"),
    "quantization": (metadata(quantization=[]), "`quantization` must be null or a JSON object"),
    "sweep": (metadata(sweep=SWEEP), "sweep: `points` must list one point or more, each once"),
    "escape in a sweep": (metadata(sweep=SWEEP | {"subset": "\x1b"}), r"sweep: `subset` is '\x1b'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file(name: str, write: Callable[..., Path], rejects: Rejects) -> None:
    change, message = HOSTILE[name]
    path = write(change)
    for read in (describe_model, TensorFile.read, read_model):
        rejects(lambda read=read: read(path), path, message)


def test_a_header_of_2_to_the_63_bytes(write: Callable[..., Path], rejects: Rejects) -> None:
    path = write(lambda *_: None, 2**63)
    rejects(lambda: read_model(path), path, "its header has 9223372036854775808 bytes; at most 16777216 are allowed")


def test_a_repeated_tensor(write: Callable[..., Path], rejects: Rejects) -> None:
    """Readers differ in which of the two they take."""
    path = write(lambda entries, _: json.dumps(entries)[:-1] + f', "proj.bias": {json.dumps(entries["proj.bias"])}}}')
    rejects(lambda: TensorFile.read(path), path, "its header is not JSON (the name 'proj.bias' is repeated)")


@pytest.mark.parametrize("value", [NAN, INFINITY], ids=["NaN", "infinity"])
def test_weights_that_are_not_finite(
    value: bytes, tiny_path: Path, tiny_model: Callable[..., ModelFile], tmp_path: Path, rejects: Rejects
) -> None:
    path, out = tmp_path / "hostile.safetensors", tmp_path / "out.safetensors"
    place = TensorFile.read(tiny_path).places["proj.weight"].offset
    content = tiny_path.read_bytes()
    path.write_bytes(content[:place] + value + content[place + 4 :])
    message = "the tensor `proj.weight` has values that are not finite numbers"
    rejects(lambda: read_model(path), path, message)
    rejects(lambda: quantize_file(path, out), path, message)
    assert not out.exists()
