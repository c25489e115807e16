"""Small, fast and elastic wav2vec 2.0 speech recognizers: distillation, int8 quantization and a runtime.

`load` reads a model file and does not need fairseq. fairseq imports this package as its `common.user_dir`.
"""

from typing import TYPE_CHECKING, Any

from .errors import InputError
from .openmp import limit_spinning
from .version import __version__

if TYPE_CHECKING:
    from .nn.compression import CompressionPoint
    from .runtime.recognizer import Recognizer

__all__ = ["CompressionPoint", "InputError", "__version__", "load"]

limit_spinning()  # every module of this package imports this file first, so this runs before torch is loaded


def __getattr__(name: str) -> Any:
    if name == "CompressionPoint":  # imported on demand because it imports torch
        from .nn.compression import CompressionPoint

        return CompressionPoint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(path: str, **options: Any) -> "Recognizer":
    """Load the recognizer in the model file `path`, as written by `w2v-compress export`, or a shipped model.

    Args:
        path: A `.safetensors` model file, or a name that `w2v-compress models` lists. No code in the file is executed.
        **options: Options of `w2v_compress.runtime.recognizer.Recognizer.load`: `precision`, `device`, `threads`.

    Raises:
        InputError: The file is missing, truncated or not a model file of this package.
    """
    from .model_file.shipped import find_model
    from .runtime.recognizer import Recognizer

    return Recognizer.load(find_model(path), **options)
