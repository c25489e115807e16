"""The compression point to run a model at."""

from ..errors import InputError
from ..nn.acoustic_model import AcousticModel
from ..nn.compression import CompressionPoint
from .header import Header

Point = CompressionPoint | str
"""A point, or its text such as "2,1,1"."""


def resolve_point(
    model: AcousticModel, header: Header, point: Point | None = None, *, strict: bool = False
) -> CompressionPoint:
    """Return `point`, or the header's default point if `point` is None.

    Raises `InputError` for a point that the network does not have, and with `strict` for one that it was not trained
    for; without `strict`, `untrained` says so.
    """
    chosen = header.point if point is None else point
    if isinstance(chosen, str):
        chosen = CompressionPoint.parse(chosen)
    model.w2v_model.encoder.pools_at(chosen)
    message = untrained(header, chosen)
    if strict and message is not None:
        raise InputError(message)
    return chosen


def untrained(header: Header, point: CompressionPoint) -> str | None:
    """A warning if the model was not trained for `point`, else None."""
    if point in header.space:
        return None
    return f"the model was not trained for the compression point {point}; it was for {header.trained_points}"
