"""The ways in which a picture of other proportions is made to fit."""

from __future__ import annotations

from typing import Literal, get_args

Fit = Literal["crop", "pad", "squash"]
ReferenceFit = Literal["crop", "pad", "squash", "tile"]
FITS: tuple[Fit, ...] = get_args(Fit)
REFERENCE_FITS: tuple[ReferenceFit, ...] = get_args(ReferenceFit)

MAX_SQUARES = 4  # of one reference


def square_boxes(size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """The squares that "tile" cuts a picture of (width, height) into: (left, upper, right, lower).

    As few as cover it from end to end of its longer side, evenly spaced, so that neighbours may
    overlap; MAX_SQUARES at most, with gaps between them in a picture that is longer than that.
    """
    short, long = sorted(size)
    count = min(MAX_SQUARES, -(-long // short))
    starts = [round(i * (long - short) / max(1, count - 1)) for i in range(count)]
    if size[0] >= size[1]:
        return [(start, 0, start + short, short) for start in starts]
    return [(0, start, short, start + short) for start in starts]
