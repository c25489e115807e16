"""Small, fast and elastic wav2vec 2.0 speech recognizers: distillation, int8, and one file to run them from.

`load` reads a model file and needs no fairseq. fairseq imports this package as its `common.user_dir`.
"""

from typing import TYPE_CHECKING, Any

from .errors import InputError
from .openmp import limit_spinning

if TYPE_CHECKING:
    from .nn.compression import CompressionPoint
    from .runtime.recognizer import Recognizer

__version__ = "0.1.0"
__all__ = ["CompressionPoint", "InputError", "__version__", "load"]

limit_spinning()  # here: whatever of this package is imported first, torch comes after it


def __getattr__(name: str) -> Any:
    if name == "CompressionPoint":  # on demand: it stands beside the network, which needs torch
        from .nn.compression import CompressionPoint

        return CompressionPoint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(path: str, **options: Any) -> "Recognizer":
    """The recognizer in the model file `path` (`w2v-compress export` writes them).

    `options` are those of `w2v_compress.runtime.recognizer.Recognizer.load`: `precision`, `device`, `threads`.
    Raises `InputError` when the file is missing, truncated or not a model of ours. Never runs code from the file.
    """
    from .runtime.recognizer import Recognizer

    return Recognizer.load(path, **options)
