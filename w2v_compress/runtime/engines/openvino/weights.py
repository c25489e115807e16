"""The tensors of a model file as constants of OpenVINO graphs, without copies.

OpenVINO records for each constant where it lies in the weights file. It can then store a compiled graph without
weights, and read them from the model file again.
"""

from xml.sax.saxutils import quoteattr

import openvino
from openvino import Node
from openvino import opset15 as ops

from ....model_file.tensor_file import TensorFile, TensorPlace
from ....nn.parameters import POSITIONAL

ELEMENT_TYPES = {
    "F64": ("f64", "FP64"),
    "F32": ("f32", "FP32"),
    "F16": ("f16", "FP16"),
    "BF16": ("bf16", "BF16"),
    "I8": ("i8", "I8"),
}
"""Types of safetensors, and their two names in OpenVINO's intermediate representation: of data and of ports."""


class Weights:
    """Constants for the tensors of a model file, which is mapped into memory."""

    def __init__(self, core: openvino.Core, file: TensorFile) -> None:
        """Map the file and create the constants."""
        groups = file.header.architecture.conv_pos_groups
        places = {
            name: _grouped(place, groups) if name.startswith(POSITIONAL) and len(place.shape) == 3 else place
            for name, place in file.places.items()
        }
        self.file = file
        # The constants point into the content of the file, so the model must not live longer.
        self._model = core.read_model(_as_xml(places).encode(), openvino.Tensor(file.content, shared_memory=True))
        self._constants = {
            node.get_friendly_name(): node for node in self._model.get_ops() if node.get_type_name() == "Constant"
        }

    def __contains__(self, name: str) -> bool:
        return name in self._constants

    def constant(self, name: str) -> Node:
        """Return a tensor as stored. The weights of the positional convolution are (groups, out, in, kernel)."""
        return self._constants[name]

    def floating(self, name: str) -> Node:
        """Return a floating-point tensor in fp32."""
        constant = self._constants[name]
        return constant if self.file.places[name].dtype == "F32" else ops.convert(constant, "f32")


def _grouped(place: TensorPlace, groups: int) -> TensorPlace:
    """Return the place of `(channels, in, kernel)` as `(groups, out, in, kernel)`, or of a gain `(1, 1, kernel)`."""
    channels, inputs, kernel = place.shape
    shape = (groups, channels // groups, inputs, kernel) if channels > 1 else (1, 1, 1, kernel)
    return TensorPlace(place.dtype, shape, place.offset, place.size)


def _as_xml(places: dict[str, TensorPlace]) -> str:
    """Describe the tensors as a model in OpenVINO's intermediate representation, each a constant and a result."""
    layers, edges = [], []
    for index, (name, place) in enumerate(places.items()):
        element, precision = ELEMENT_TYPES[place.dtype]
        port = f'<port id="0" precision="{precision}">{"".join(f"<dim>{size}</dim>" for size in place.shape)}</port>'
        shape = ",".join(map(str, place.shape))
        layers.append(
            f'<layer id="{2 * index}" name={quoteattr(name)} type="Const" version="opset1">'
            f'<data element_type="{element}" shape="{shape}" offset="{place.offset}" size="{place.size}"/>'
            f"<output>{port}</output></layer>"
            f'<layer id="{2 * index + 1}" name="result {index}" type="Result" version="opset1">'
            f"<input>{port}</input></layer>"
        )
        edges.append(f'<edge from-layer="{2 * index}" from-port="0" to-layer="{2 * index + 1}" to-port="0"/>')
    return f'<net name="weights" version="11"><layers>{"".join(layers)}</layers><edges>{"".join(edges)}</edges></net>'
