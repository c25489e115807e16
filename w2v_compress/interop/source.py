"""What is exported, and what all formats have in common."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import InputError
from ..model_file.points import Point, resolve_point, untrained
from ..model_file.storage import ModelFile, read_model
from ..nn.compression import CompressionPoint
from ..quantization.scheme import widened_state
from .parity import Difference


@dataclass(frozen=True)
class Source:
    """A floating-point recognizer and the point to export it at."""

    model: ModelFile
    point: CompressionPoint
    widened: bool
    """The file is int8: its weights are what they are there, in fp32; activations are not quantized."""

    @classmethod
    def read(cls, path: Path, point: Point | None, strict: bool) -> "Source":
        """From a model file; `point` and `strict` are those of `resolve_point`."""
        model = read_model(path)
        widened = model.header.quantization is not None
        if widened:
            model = ModelFile(replace(model.header, quantization=None), widened_state(model.state))
        chosen = resolve_point(model.build(), model.header, point, strict=strict)
        if message := untrained(model.header, chosen):
            warnings.warn(message, stacklevel=2)
        return cls(model, chosen, widened)


@dataclass(frozen=True)
class Exported:
    """What an export wrote, and how far it is from our network in fp32."""

    source: Source
    files: tuple[Path, ...]
    difference: Difference
    int8: Difference | None = None
    """Of the file in int8, where that is what was written; `difference` is then that of the file it was made from."""

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.stat().st_size for file in self.files)


def check_suffix(out: Path, suffix: str) -> None:
    """Raises `InputError` when the name of `out` does not end with `suffix`."""
    if out.suffix != suffix:
        raise InputError(f"{out}: its name must end with {suffix}")


@contextmanager
def quietly() -> Iterator[None]:
    """Within, libraries neither warn nor log: what they say is about their own insides, and parity is checked after."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
