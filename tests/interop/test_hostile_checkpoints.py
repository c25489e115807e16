"""Checkpoints that are made to hang, to fill the memory or to be taken in silence end in one line."""

import argparse
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from w2v_compress import compat
from w2v_compress.data.units import Units
from w2v_compress.errors import InputError
from w2v_compress.interop.fairseq_checkpoint import read_checkpoint, write_checkpoint
from w2v_compress.memory import peak_memory
from w2v_compress.model_file.storage import ModelFile

Checkpoint = dict[str, Any]
HEAD = "w2v_encoder.proj.weight"


def references(depth: int) -> list[Any]:
    """A list that holds 10 ** depth values once references are followed."""
    value: list[Any] = [0] * 10
    for _ in range(depth - 1):
        value = [value] * 10
    return value


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def nested(checkpoint: Checkpoint, value: Any, *place: str) -> Checkpoint:
    """The checkpoint with another value at a place of its configuration."""
    target = checkpoint["cfg"]
    for name in place[:-1]:
        target = target[name]
    target[place[-1]] = value
    return checkpoint


def with_tensor(checkpoint: Checkpoint, tensor: Any, name: Any = HEAD) -> Checkpoint:
    return checkpoint | {"model": checkpoint["model"] | {name: tensor}}


def nested_tensor(layout: torch.layout) -> torch.Tensor:
    """Tensors of different lengths as one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nested tensors are a prototype
        return torch.nested.nested_tensor([torch.zeros(2, 32), torch.zeros(30, 32)], layout=layout)


def with_dictionary(checkpoint: Checkpoint, **fields: Any) -> Checkpoint:
    from fairseq.data import Dictionary

    dictionary = Dictionary()
    dictionary.__dict__.update(fields)
    return checkpoint | {"task_state": {"target_dictionary": dictionary}}


NETWORK = ("model", "w2v_args", "model")
HOSTILE: dict[str, tuple[Callable[[Checkpoint], Checkpoint], str]] = {
    "references in cfg": (lambda c: nested(c, references(12), "model", "x"), "it has more than 2000000 values"),
    "references in args": (
        lambda c: c | {"cfg": None, "args": argparse.Namespace(x=references(12))},
        "it has more than 2000000 values",
    ),
    "references beside it": (lambda c: c | {"extra_state": references(12)}, "it has more than 2000000 values"),
    "half-precision tensor of one number": (
        lambda c: with_tensor(c, torch.zeros(1, dtype=torch.half).expand(1 << 40)),
        "it has a tensor of 1099511627776 values, of which only 1 are stored",
    ),
    "tensor of rows that are stored once": (
        lambda c: with_tensor(c, torch.zeros(1, 32).expand(32, 32)),
        "it has a tensor of 1024 values, of which only 32 are stored",
    ),
    "sparse tensor": (lambda c: with_tensor(c, torch.eye(32).to_sparse()), "it has a sparse tensor; only dense"),
    "meta tensor": (lambda c: with_tensor(c, torch.zeros(32, 32, device="meta")), "it has a meta tensor; only dense"),
    "nested tensor": (lambda c: with_tensor(c, nested_tensor(torch.strided)), "it has a nested tensor; only dense"),
    "jagged tensor": (lambda c: with_tensor(c, nested_tensor(torch.jagged)), "it has a nested tensor; only dense"),
    "float8 tensor": (
        lambda c: with_tensor(c, torch.zeros(32, 32, dtype=torch.float8_e4m3fn)),
        f"the tensor `{HEAD}` has type torch.float8_e4m3fn; only F64, F32, F16, BF16",
    ),
    "quantized tensor": (
        lambda c: with_tensor(c, torch.quantize_per_tensor(torch.eye(32), 1.0, 0, torch.qint8)),
        "it has a quantized tensor; only dense",
    ),
    "list of upsamplings": (
        lambda c: nested(c, list(range(2, 1_000_000)), *NETWORK, "learned_upsampling"),
        "it must be a list of squeeze factors from 2 to 16",
    ),
    "convolutions": (
        lambda c: nested(c, "[(512, 3, 2)] * 1000000000", *NETWORK, "conv_feature_layers"),
        "`conv_feature_layers` that fairseq evaluates",
    ),
    "layers": (lambda c: nested(c, 10**9, *NETWORK, "encoder_layers"), "encoder_layers"),
    "width": (lambda c: nested(c, 2**40, *NETWORK, "encoder_embed_dim"), "it must be"),
    "NaN": (
        lambda c: with_tensor(c, torch.full((32, 32), float("nan"))),
        f"the tensor `{HEAD}` has values that are not finite numbers",
    ),
    "name": (lambda c: with_tensor(c, torch.zeros(1), 7), "the tensor 7 has a name that is not text"),
    "value": (lambda c: with_tensor(c, "text"), f"the tensor `{HEAD}` is unknown"),
    "labels": (lambda c: nested(c, ["x" * 300], "task", "labels"), "`labels` in its task is ['xxx"),
    "labels elsewhere": (lambda c: nested(c, "../ltr", "task", "labels"), "`labels` in its task is ../ltr; it must be"),
    "dictionary": (lambda c: c | {"task_state": {"target_dictionary": 3}}, "is not a dictionary of fairseq"),
    "task state": (lambda c: c | {"task_state": [1]}, ""),
    "symbols": (lambda c: with_dictionary(c, symbols=[1, 2]), "is not a dictionary of fairseq"),
    "escape characters": (
        lambda c: with_dictionary(c, symbols=[*Units.letters().symbols[:-1], "\x1b[2J"]),
        r"'\x1b[2J' is not a symbol: it has a control character",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_checkpoint(name: str, tmp_path: Path, tiny_model: Callable[..., ModelFile]) -> None:
    path = tmp_path / "hostile.pt"
    write_checkpoint(path, tiny_model())
    change, message = HOSTILE[name]
    torch.save(change(compat.load_checkpoint(path)), path)
    start, before = time.monotonic(), peak_memory()
    if not message:
        read_checkpoint(path)
        return
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert time.monotonic() - start < 20
    assert peak_memory() - before < 2 * path.stat().st_size + (1 << 30)


def test_a_deep_configuration(tmp_path: Path, tiny_model: Callable[..., ModelFile]) -> None:
    path = tmp_path / "deep.pt"
    write_checkpoint(path, tiny_model())
    whole = compat.load_checkpoint(path)
    torch.save(nested(whole, deep(100), "model", "x"), path)
    read_checkpoint(path)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        torch.save(nested(whole, deep(3000), "model", "x"), path)
    finally:
        sys.setrecursionlimit(limit)
    with pytest.raises(
        InputError, match=r"deep.pt: is not a fairseq checkpoint, or is damaged \(maximum recursion depth"
    ):
        read_checkpoint(path)


@pytest.mark.parametrize("member", ["data.pkl", "data/0", "version", "byteorder", "x"])
def test_an_archive_that_unpacks_to_more_than_its_size(
    member: str, tmp_path: Path, tiny_model: Callable[..., ModelFile], rejects: Callable[..., None]
) -> None:
    whole, path = tmp_path / "whole.pt", tmp_path / "hostile.pt"
    write_checkpoint(whole, tiny_model())
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        folder = old.namelist()[0].partition("/")[0]
        for name in {*old.namelist(), f"{folder}/{member}"}:
            content = old.read(name) if name in old.namelist() else b""
            new.writestr(name, content + bytes(50_000_000) * (name == f"{folder}/{member}"))
    assert path.stat().st_size < 1_000_000
    rejects(lambda: read_checkpoint(path), path, "is rejected: it unpacks to 50")
    content = whole.read_bytes()
    path.write_bytes(content[: content.rindex(b"PK\x05\x06")])
    rejects(lambda: read_checkpoint(path), path, "is not a fairseq checkpoint, or is damaged")
