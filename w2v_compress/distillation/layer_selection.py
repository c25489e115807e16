"""Choose the layers that initialize a shallow student ("Shrinking Bigfoot", Peng et al. 2021, section 3)."""

from collections.abc import Sequence

from torch import Tensor

from ..errors import InputError

SELECTIONS = ("every_k", "first_k", "last_k")
LAYERS = "w2v_model.encoder.layers."
NOT_COPIED_IN_RELEASED_CODE = ("w2v_model.encoder.pos_conv.", "w2v_model.encoder.layer_norm.")


def choose_layers(selection: str, available: int, count: int) -> list[int]:
    """Choose `count` of `available` layers, lowest first, by `selection`.

    `every_k` is `range(0, available, available // count)`, cut to `count`, as in the code released with the paper:
    24 -> 12 gives 0, 2, .., 22, and 12 -> 4 gives 0, 3, 6, 9. `first_k` and `last_k` are the lowest and highest layers.
    Raises `InputError` for an unknown selection or an impossible count.
    """
    if not 1 <= count <= available:
        raise InputError(
            f"encoder_layers is {count}; it must be from 1 to {available}, the layers of the initial checkpoint"
        )
    layers = list(range(available))
    if selection == "every_k":
        return layers[:: available // count][:count]
    if selection == "first_k":
        return layers[:count]
    if selection == "last_k":
        return layers[-count:]
    raise InputError(f"layer_selection is {selection!r}; it must be one of {', '.join(SELECTIONS)}")


def check_layers(layers: Sequence[int], available: int) -> list[int]:
    """Return the explicit choice `layers`, in the order of the student, after validating it.

    Raises `InputError` if a layer is not one of `available`, counted from 0, or is listed twice.
    """
    for layer in layers:
        if not 0 <= layer < available:
            raise InputError(f"layers has {layer}; the layers of the initial checkpoint are 0 to {available - 1}")
    if len(set(layers)) < len(layers):
        raise InputError(f"layers is {list(layers)}; each layer may be listed only once")
    return list(layers)


def extract_layers(state: dict[str, Tensor], layers: list[int]) -> dict[str, Tensor]:
    """Return the state dict of an `AcousticModel` with only `layers`, renumbered from 0, and all other tensors.

    The positional convolution and the final layer norm are included, unlike in the code released with the paper.
    """
    position = {layer: index for index, layer in enumerate(layers)}
    student = {}
    for name, tensor in state.items():
        if not name.startswith(LAYERS):
            student[name] = tensor
            continue
        layer, _, rest = name.removeprefix(LAYERS).partition(".")
        if int(layer) in position:
            student[f"{LAYERS}{position[int(layer)]}.{rest}"] = tensor
    return student


def initial_weights(
    network: dict[str, Tensor], initial: dict[str, Tensor], *, same_layers: bool, released_code: bool
) -> dict[str, Tensor]:
    """Return the state dict `network` of a student, with the tensors of `initial` where they fit.

    Other tensors keep their random values in `network`: those of another shape; unless `same_layers`, all transformer
    layers, because weights cut to another width or number of heads are meaningless; and, with `released_code`, the
    positional convolution and the final layer norm of the encoder, because the code released with the paper skips all
    names that start with `encoder.`.
    """

    def fits(name: str) -> bool:
        if name not in initial or initial[name].shape != network[name].shape:
            return False
        if released_code and name.startswith(NOT_COPIED_IN_RELEASED_CODE):
            return False
        return same_layers or not name.startswith(LAYERS)

    return {name: initial[name] if fits(name) else tensor for name, tensor in network.items()}
