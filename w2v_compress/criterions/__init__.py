"""Register fairseq criterions."""

from . import ctc_distillation, intermediate_ctc

__all__ = ["ctc_distillation", "intermediate_ctc"]
