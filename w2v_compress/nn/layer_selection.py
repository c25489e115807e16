"""Which transformer layers a shallow student starts from ("Shrinking Bigfoot", Peng et al. 2021, section 3)."""

from torch import Tensor

from ..errors import InputError

SELECTIONS = ("every_k", "first_k", "last_k")
LAYERS = "w2v_model.encoder.layers."


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
