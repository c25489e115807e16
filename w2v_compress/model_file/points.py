"""Choosing the compression point to run a model at."""

from ..errors import InputError
from ..nn.compression import CompressionPoint
from .header import Header

Point = CompressionPoint | str
"""A compression point, or its text such as "2,1,1"."""


def resolve_point(header: Header, point: Point | None = None, *, strict: bool = False) -> CompressionPoint:
    """Return `point` as a `CompressionPoint`, or the header's default point if `point` is None.

    Raises `InputError` for a point that the network cannot run and, if `strict`, for one that it was not trained for.
    Without `strict`, call `untrained_warning` for a message to show.
    """
    chosen = header.point if point is None else point
    if isinstance(chosen, str):
        chosen = CompressionPoint.parse(chosen)
    header.architecture.pools_per_layer(chosen)
    message = untrained_warning(header, chosen)
    if strict and message is not None:
        raise InputError(message)
    return chosen


def untrained_warning(header: Header, point: CompressionPoint) -> str | None:
    """Return a warning if the model was not trained for `point`, else None."""
    if point in header.space:
        return None
    return f"the model was not trained for the compression point {point}; it was for {header.describe_space()}"
