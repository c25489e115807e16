"""Folders of transformers that are made to hang, to fill the memory or to be taken in silence end in one line."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from w2v_compress.interop import transformers_format
from w2v_compress.interop.transformers_import import WEIGHTS, read_transformers
from w2v_compress.model_file.storage import ModelFile

Rejects = Callable[..., None]
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., ModelFile]) -> Path:
    """A folder of the tiny model, with the files that the import reads."""
    folder, model = tmp_path_factory.mktemp("whole"), tiny_model()
    state = {transformers_format.tensor_name(name): tensor.contiguous() for name, tensor in model.state.items()}
    save_file(state, folder / WEIGHTS)
    tokens = [*transformers_format.SPECIALS, *model.header.units.symbols[4:]]
    tokens[0], tokens[1] = "<pad>", "<s>"
    for name, values in (
        ("config", transformers_format.to_config(model.header.architecture)),
        ("vocab", {token: number for number, token in enumerate(tokens)}),
        ("preprocessor_config", {"do_normalize": True}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(values))
    read_transformers(folder)
    return folder


def values(name: str, **changes: Any) -> Change:
    """Changes values of a JSON file."""

    def change(folder: Path) -> None:
        path = folder / f"{name}.json"
        path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))

    return change


def text(name: str, content: str | bytes) -> Change:
    """Writes a JSON file."""
    return lambda folder: (folder / f"{name}.json").write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )


def renamed(token: str) -> Change:
    """Gives the token X of the vocabulary another name."""
    return lambda folder: text("vocab", (folder / "vocab.json").read_text().replace('"X"', json.dumps(token)))(folder)


def tensor(name: str, value: torch.Tensor) -> Change:
    return lambda folder: save_file(load_file(folder / WEIGHTS) | {name: value}, folder / WEIGHTS)


def header(change: Callable[[dict[str, Any], int], object], length: int | None = None) -> Change:
    """Changes the header of the weights, given the size of the data, and claims another `length` of it."""

    def write(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        entries = json.loads(content[8:end])
        changed = change(entries, len(content) - end)
        new = (changed if isinstance(changed, str) else json.dumps(entries)).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", length or len(new)) + new + content[end:])

    return write


def empty(*shape: int) -> Change:
    """Adds an empty tensor."""
    entry = {"dtype": "F32", "shape": shape}
    return header(lambda entries, size: entries.update({"x": entry | {"data_offsets": [size, size]}}))


def replaced(name: str, make: Change) -> Change:
    """Puts something else in the place of a file."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return change


HEAD = "lm_head.bias"
HOSTILE: dict[str, tuple[Change, str]] = {
    "negative number": (values("vocab", a=-1), "vocab.json: must be a JSON object of tokens and their numbers from 0"),
    "number of true": (values("vocab", a=True), "vocab.json: must be a JSON object of tokens and their numbers from 0"),
    "number of 1.0": (values("vocab", a=1.0), "vocab.json: must be a JSON object of tokens and their numbers from 0"),
    "repeated number": (values("vocab", a=4), "vocab.json: the tokens '|' and 'a' have the same number 4"),
    "huge number": (text("vocab", f'{{"a": {"9" * 5000}}}'), "vocab.json: is not JSON (Exceeds the limit"),
    "list": (text("vocab", "[1]"), "vocab.json: must be a JSON object"),
    "nesting": (text("vocab", '{"a":' + "[" * 100_000), "vocab.json: is not JSON (it is nested too deeply)"),
    "repeated token": (text("vocab", '{"a": 1, "b": 2, "a": 3}'), "vocab.json: is not JSON (the name 'a' is repeated)"),
    "latin-1": (text("vocab", b'{"\xe9": 1}'), "vocab.json: is not JSON ('utf-8' codec"),
    "byte order mark": (text("vocab", b'\xef\xbb\xbf{"a": 1}'), "vocab.json: is not JSON (Unexpected UTF-8 BOM"),
    "20 MB": (text("vocab", '{"a":' + "[]," * 7_000_000), "vocab.json: has 21000005 bytes of JSON; at most 16777216"),
    "empty token": (renamed(""), "vocab.json: units: '' is not a symbol: it is empty or has a space"),
    "escape": (renamed("\x1b[2J"), r"vocab.json: units: '\x1b[2J' is not a symbol: it has a control character"),
    "lower case": (
        lambda folder: (renamed("a")(folder), values("tokenizer_config", do_lower_case=True)(folder)),
        "vocab.json: units: the symbol 'a' is listed twice",
    ),
    "FIFO of an optional file": (replaced("added_tokens.json", os.mkfifo), "added_tokens.json: is not a plain file"),
    "device": (
        replaced("vocab.json", lambda path: path.symlink_to("/dev/zero")),
        "vocab.json: is not a plain file",
    ),
    "width": (values("config", hidden_size=10**12), f"{WEIGHTS}: the tensor `w2v_model.mask_emb` has shape [32]"),
    "negative width": (values("config", hidden_size=-1), "config.json: architecture: `encoder_embed_dim` is -1"),
    "width of true": (values("config", hidden_size=True), "config.json: architecture: `encoder_embed_dim` is True"),
    "NaN": (text("config", '{"hidden_size": NaN}'), "config.json: is not JSON (NaN is not a finite number)"),
    "infinity": (text("config", '{"hidden_size": 1e999}'), "config.json: is not JSON (1e999 is not a finite number)"),
    "layers": (values("config", num_hidden_layers=10**9), f"{WEIGHTS}: architecture: `encoder_layers` is 1000000000"),
    "convolutions": (
        values("config", **dict.fromkeys(("conv_dim", "conv_kernel", "conv_stride"), [1] * 10**5)),
        "config.json: architecture: `conv_layers` is ((1, 1, 1), (1, 1, 1)",
    ),
    "units": (values("config", vocab_size=10**12), "config.json: `vocab_size` is 1000000000000; the CTC head has 32"),
    "head": (
        tensor(HEAD, torch.zeros(30_000_000, dtype=torch.uint8)),
        f"{WEIGHTS}: `lm_head.weight` must have two dimensions and 30000000 rows",
    ),
    "head beyond the vocabulary": (
        lambda folder: (
            tensor(HEAD, torch.zeros(30_000_000, dtype=torch.uint8))(folder),
            tensor("lm_head.weight", torch.zeros(30_000_000, 1, dtype=torch.uint8))(folder),
        ),
        "vocab.json: has no token 32; the CTC head has 30000000 units",
    ),
    "weight that is NaN": (tensor(HEAD, torch.full((32,), torch.nan)), f"{WEIGHTS}: the tensor `{HEAD}` has values"),
    "float8": (
        tensor(HEAD, torch.zeros(32, dtype=torch.float8_e4m3fn)),
        f"{WEIGHTS}: the tensor `{HEAD}` has type torch.float8_e4m3fn; only F64, F32, F16, BF16",
    ),
    "complex": (tensor(HEAD, torch.zeros(32, dtype=torch.complex64)), f"{WEIGHTS}: the tensor `proj.bias` has type"),
    "dimensions": (tensor("x", torch.zeros([1] * 60)), f"{WEIGHTS}: the tensor `x` has shape [1, 1, 1"),
    "empty tensor of 2^64 rows": (
        empty(0, 2**64 - 1),
        f"{WEIGHTS}: the tensor `x` has shape [0, 18446744073709551615]",
    ),
    "header of 2^63 bytes": (header(lambda *_: None, 2**63), "its header has 9223372036854775808 bytes; at most"),
    "header of 17 MB": (header(lambda *_: "{" + " " * 17_000_000 + "}"), "its header has 17000002 bytes; at most"),
    "header that is not JSON": (header(lambda *_: "hello   "), f"{WEIGHTS}: not a safetensors file, or truncated"),
    "nested header": (header(lambda *_: '{"a":' + "[" * 10**6), f"{WEIGHTS}: not a safetensors file, or truncated"),
    "offset": (
        header(lambda entries, size: entries[HEAD].update(data_offsets=[size, size + 128])),
        f"{WEIGHTS}: not a safetensors file, or truncated",
    ),
    "overlap": (
        header(lambda entries, _: entries["lm_head.weight"].update(data_offsets=[0, 4096])),
        f"{WEIGHTS}: not a safetensors file, or truncated",
    ),
    "pickle": (
        lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"),
        "pytorch_model.bin: not read, because a pickle can run code",
    ),
    "index of shards outside": (
        lambda folder: (
            (folder / WEIGHTS).unlink(),
            values("model.safetensors.index", weight_map={HEAD: "../../outside.safetensors"})(folder),
        ),
        f"{WEIGHTS}: no such file; weights split into several files are not supported",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder(name: str, whole: Path, tmp_path: Path, rejects: Rejects) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(whole, folder)
    change, message = HOSTILE[name]
    change(folder)
    rejects(lambda: read_transformers(folder), folder, message)
