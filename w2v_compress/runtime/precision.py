"""Names of the precisions that a recognizer computes in; a module of its own, so that the CLI need not import torch."""

from typing import Literal

Precision = Literal["auto", "fp32", "bf16", "int8"]
"""Precision of the computation; "auto" chooses by the model file and the device."""
