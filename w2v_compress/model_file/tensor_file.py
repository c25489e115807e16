"""Reading a model file without torch: its header, and where its tensors lie in the file.

A model file is a safetensors file whose metadata hold a header; docs/model_file.md describes the format. Reading it
never runs code from it, and names and shapes of all tensors are checked against the header before one is read.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from ..errors import InputError, prefixed, readable
from ..json_objects import MAX_BYTES, parse_json
from ..nn.parameters import check_layer_counts, parameter_count
from ..quantization.parts import tensor_shapes
from .header import METADATA_KEY, Header

MAX_DIMENSIONS = 3
FLOATING_TYPES = ("F64", "F32", "F16", "BF16")
NUMPY_TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I8": np.int8}


FileStatus = tuple[int, int, int, int]
"""Device and number of a file, its size, and when it was changed."""


@dataclass(frozen=True)
class TensorPlace:
    """Type and shape of a tensor, and its place in the file."""

    dtype: str
    """Type as safetensors names it, for example `F32`."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the beginning of the file."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class TensorFile:
    """A model file whose tensors are read when they are needed."""

    path: Path
    header: Header
    places: Mapping[str, TensorPlace]
    content: npt.NDArray[np.uint8] = field(repr=False, compare=False)
    """The file as it was when it was read, mapped into memory. The array is writable, as some libraries demand, but
    writing leaves the file."""
    _status: FileStatus = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> "TensorFile":
        """Read the header and the places. Raises `InputError` that names the file and the invalid field or tensor."""
        path = Path(path)
        with open_safetensors(path) as file, prefixed(path):
            header = header_of(file)
            check_tensors(header, shapes_of(file))
        with readable(path), path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            entries = parse_json(stream.read(length), f"{path}: its header")
            content, status = np.memmap(stream, np.uint8, "c"), _status_of(os.fstat(stream.fileno()))
        entries.pop("__metadata__")
        places = {}
        for name, entry in entries.items():
            start, end = entry["data_offsets"]
            places[name] = TensorPlace(entry["dtype"], tuple(entry["shape"]), 8 + length + start, end - start)
        with prefixed(path):
            check_types(header, {name: place.dtype for name, place in places.items()})
        return cls(path, header, places, content, status)

    def is_in_place(self) -> bool:
        """Return whether the file at `path` is still the one that was read, and not deleted, replaced or changed."""
        try:
            return _status_of(self.path.stat()) == self._status
        except OSError:
            return False

    def array(self, name: str) -> npt.NDArray[Any]:
        """Return a tensor as an array; floating-point tensors in float32."""
        place = self.places[name]
        data = self.content[place.offset : place.offset + place.size]
        if place.dtype == "BF16":  # the upper half of a float32
            return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(place.shape)
        array = data.view(NUMPY_TYPES[place.dtype]).reshape(place.shape)
        return array if place.dtype == "I8" else array.astype(np.float32)


def _status_of(status: os.stat_result) -> FileStatus:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read_header(path: Path) -> Header:
    """Read the header of the model file `path`, without its tensors."""
    with open_safetensors(path) as file, prefixed(path):
        return header_of(file)


def describe_model(path: Path) -> dict[str, Any]:
    """Return the header, parameter count, size in bytes and precision of a model file as JSON values.

    Tensors are checked but not read.
    """
    with open_safetensors(path) as file, prefixed(path):
        header = header_of(file)
        check_tensors(header, shapes_of(file))
        types = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return {
        **json.loads(header.to_json()),
        "parameters": parameter_count(header.architecture),
        "bytes": Path(path).stat().st_size,
        "precision": "int8" if header.quantization else "/".join(sorted(types)).lower(),
    }


def open_safetensors(path: Path, framework: str = "np") -> Any:
    """Open the safetensors file `path`; raise `InputError` that says how to make a model file of another format."""
    path = Path(path)
    if path.is_dir():
        raise InputError(
            f"{path}: is a folder; it must be a model file. Convert a folder of transformers with "
            f"`w2v-compress import {path} OUT.safetensors`"
        )
    if not path.is_file():
        raise InputError(f"{path}: {'is not a plain file' if path.exists() else 'no such file'}")
    with readable(path):
        try:
            _check_header_size(path)
            return safe_open(path, framework=framework, device="cpu")
        except SafetensorError as error:
            if _is_pytorch_checkpoint(path):
                raise InputError(
                    f"{path}: is a PyTorch checkpoint; it must be a model file. Convert it with "
                    f"`w2v-compress export {path} OUT.safetensors`"
                ) from None
            raise InputError(f"{path}: not a safetensors file, or truncated ({error})") from None


def _check_header_size(path: Path) -> None:
    """Raise `SafetensorError` for a header that would take seconds and gigabytes to parse."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > MAX_BYTES:
        raise SafetensorError(f"its header has {size} bytes; at most {MAX_BYTES} are allowed")


def _is_pytorch_checkpoint(path: Path) -> bool:
    """Return whether the file starts like a file of `torch.save`: a zip archive or, before 2020, a pickle."""
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02")


def header_of(file: Any) -> Header:
    """Read the header of an open safetensors file."""
    text = (file.metadata() or {}).get(METADATA_KEY)
    if text is None:
        raise InputError(f"not a model of w2v-compress: its metadata has no key `{METADATA_KEY}`")
    return Header.from_json(text)


def shapes_of(file: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors in an open safetensors file by name, without reading the tensors.

    Raises `InputError` for a shape that no network has and that torch and numpy may not be able to represent.
    """
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for name, shape in shapes.items():
        if len(shape) > MAX_DIMENSIONS or 0 in shape:
            raise InputError(
                f"the tensor `{name}` has shape {str(list(shape))[:80]}; it must have at most {MAX_DIMENSIONS} "
                "dimensions, each of at least 1"
            )
    return shapes


def check_tensors(header: Header, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check names and shapes of a file's tensors against its header.

    Raises `InputError` that names the field or the tensor.
    """
    check_layer_counts(header.architecture, len(shapes))
    header.check_points()
    expected = tensor_shapes(header.architecture, header.quantization)
    for problem, names in (("missing", expected.keys() - shapes.keys()), ("unknown", shapes.keys() - expected.keys())):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise InputError(f"the tensor `{min(names)}` is {problem}{more}")
    for name, shape in shapes.items():
        if shape != expected[name]:
            raise InputError(f"the tensor `{name}` has shape {list(shape)}; it must be {list(expected[name])}")


def check_types(header: Header, types: Mapping[str, str]) -> None:
    """Raise `InputError` that names the first tensor whose type, as safetensors names it, does not fit the header."""
    for name, dtype in types.items():
        integer = header.quantization is not None and f"{name}_scale" in types
        if dtype not in (("I8",) if integer else FLOATING_TYPES):
            wanted = "int8 (I8)" if integer else "floating point"
            raise InputError(f"the tensor `{name}` has type {dtype}; it must be {wanted}")
