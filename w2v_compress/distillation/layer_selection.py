"""Which transformer layers a shallow student starts from ("Shrinking Bigfoot", Peng et al. 2021, section 3)."""

from collections.abc import Sequence

from torch import Tensor

from ..errors import InputError

SELECTIONS = ("every_k", "first_k", "last_k")
LAYERS = "w2v_model.encoder.layers."
NOT_COPIED_IN_RELEASED_CODE = ("w2v_model.encoder.pos_conv.", "w2v_model.encoder.layer_norm.")


def select_layers(selection: str, available: int, wanted: int) -> list[int]:
    """`wanted` of `available` layers, bottom first.

    every_k: `range(0, available, available // wanted)` as the released code has it, cut to `wanted`: 24 -> 12 takes
    0, 2, .., 22 and 12 -> 4 takes 0, 3, 6, 9. first_k and last_k: the lowest or highest.
    """
    if not 1 <= wanted <= available:
        raise InputError(f"encoder_layers is {wanted}; it must be from 1 to {available}, the layers there are to keep")
    layers = list(range(available))
    if selection == "every_k":
        return layers[:: available // wanted][:wanted]
    if selection == "first_k":
        return layers[:wanted]
    if selection == "last_k":
        return layers[-wanted:]
    raise InputError(f"layer_selection is {selection!r}; it must be one of {', '.join(SELECTIONS)}")


def check_layers(layers: Sequence[int], available: int) -> list[int]:
    """`layers`, an explicit choice in the order of the student, once each of them is there and named once."""
    for layer in layers:
        if not 0 <= layer < available:
            raise InputError(f"layers has {layer}; the layers there are to keep are 0 to {available - 1}")
    if len(set(layers)) < len(layers):
        raise InputError(f"layers is {list(layers)}; no layer may be there twice")
    return list(layers)


def keep_layers(state: dict[str, Tensor], kept: list[int]) -> dict[str, Tensor]:
    """The state dict of an `AcousticModel` with only the layers `kept`, renumbered from 0; all else stays.

    The positional convolution and the final layer norm stay too: the released code leaves them to chance.
    """
    position = {layer: index for index, layer in enumerate(kept)}
    student = {}
    for name, tensor in state.items():
        if not name.startswith(LAYERS):
            student[name] = tensor
            continue
        layer, _, rest = name.removeprefix(LAYERS).partition(".")
        if int(layer) in position:
            student[f"{LAYERS}{position[int(layer)]}.{rest}"] = tensor
    return student


def starting_weights(
    network: dict[str, Tensor], initial: dict[str, Tensor], *, same_layers: bool, released_code: bool
) -> dict[str, Tensor]:
    """The state dict to start a student of the state dict `network` from: `initial`'s tensors where they fit.

    What stays as it is in `network`, at random: tensors of another shape; with `same_layers` false, the transformer
    layers as a whole, since weights cut to another width, or heads of another size, mean nothing; and with
    `released_code`, the positional convolution and the encoder's final layer norm, which the code released with the
    paper never copies (it skips the names that start with `encoder.`).
    """

    def fits(name: str) -> bool:
        if name not in initial or initial[name].shape != network[name].shape:
            return False
        if released_code and name.startswith(NOT_COPIED_IN_RELEASED_CODE):
            return False
        return same_layers or not name.startswith(LAYERS)

    return {name: initial[name] if fits(name) else tensor for name, tensor in network.items()}
