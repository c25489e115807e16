"""fairseq criterions. Importing this package registers them."""

from . import ctc_distillation

__all__ = ["ctc_distillation"]
