"""Register fairseq optimizers."""

from . import muon

__all__ = ["muon"]
