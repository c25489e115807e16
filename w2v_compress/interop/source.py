"""The input and the result of an export, and checks that all formats share."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import InputError
from ..model_file.points import Point, resolve_point, untrained_warning
from ..model_file.storage import ModelFile, read_model
from ..nn.compression import CompressionPoint
from ..quantization.parts import is_calibrated
from ..quantization.scheme import dequantized_state
from .parity import Difference


@dataclass(frozen=True)
class Source:
    """A recognizer and the compression point to export it at."""

    model: ModelFile
    """In floating point; the weights of an int8 model file are dequantized."""
    point: CompressionPoint
    int8: ModelFile | None
    """The model file as it is, if it is int8."""

    @property
    def calibrated(self) -> ModelFile | None:
        """The model file as it is, if it is int8 with fixed scales for its activations."""
        return self.int8 if self.int8 is not None and is_calibrated(self.int8.header.quantization) else None

    @classmethod
    def read(cls, path: Path, point: Point | None, strict: bool) -> "Source":
        """Read a model file; `point` and `strict` are those of `resolve_point`.

        Warns if the model was not trained for the point.
        """
        model, int8 = read_model(path), None
        if model.header.quantization is not None:
            int8 = model
            model = ModelFile(replace(model.header, quantization=None), dequantized_state(model.state))
        chosen = resolve_point(model.header, point, strict=strict)
        if message := untrained_warning(model.header, chosen):
            warnings.warn(message, stacklevel=2)
        return cls(model, chosen, int8)


@dataclass(frozen=True)
class Exported:
    """The files that an export wrote, and how far their logits are from our network in fp32."""

    source: Source
    files: tuple[Path, ...]
    difference: Difference
    """Difference of the exported network in fp32."""
    int8: Difference | None = None
    """Difference of the exported network in int8, if it was quantized."""

    @property
    def bytes(self) -> int:
        """Size of all files in bytes."""
        return sum(file.stat().st_size for file in self.files)


def check_suffix(out: Path, suffix: str) -> None:
    """Raise `InputError` unless the name of `out` ends with `suffix`."""
    if out.suffix != suffix:
        raise InputError(f"{out}: its name must end with {suffix}")


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence the warnings and log messages of exporters, which are about their internals. Parity is checked anyway."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
