"""Names of the engines; a module of its own, so that the CLI imports nothing else for them."""

from typing import Literal

EngineName = Literal["auto", "openvino", "torch"]
"""Name of an engine; "auto" chooses by the device and the model file."""
