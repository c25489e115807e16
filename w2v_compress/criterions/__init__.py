"""Register fairseq criterions."""

from . import ctc_distillation

__all__ = ["ctc_distillation"]
