"""From a model file to text: no fairseq, but for `fairseq_checkpoint`, which imports it when it is called."""

from typing import Literal

Precision = Literal["auto", "fp32", "bf16", "int8"]
"""What a recognizer computes in; auto asks the file and the machine. Here, where it costs the command line no torch."""
