"""Two passes: a picture that is drawn, enlarged, and drawn once more from there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ipadapter_demo import checks
from ipadapter_demo.errors import RequestError
from ipadapter_demo.size_limits import MAX_AREA, SIZE_STEP

Enlarge = Literal["picture", "latents"]

ENLARGES: tuple[Enlarge, ...] = get_args(Enlarge)
MAX_FACTOR = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Upscale:
    """The second pass of a request. `factor` enlarges both sides; `strength` is the share of the
    steps that is taken again: little of it keeps the first picture and sharpens it, 1 forgets it.
    `enlarge` says what becomes larger: the decoded "picture" (bicubic), or its "latents" (bilinear,
    without decoding)."""

    factor: float = 2.0
    strength: float = 0.3
    enlarge: Enlarge = "picture"

    def __post_init__(self) -> None:
        factor = checks.number("upscale.factor", self.factor, 1.0, MAX_FACTOR)
        if factor == 1.0:
            raise RequestError(
                f"upscale.factor must be above 1 and at most {MAX_FACTOR:g}, "
                f"got {self.factor!r:.80}"
            )
        object.__setattr__(self, "factor", factor)
        strength = checks.strength("upscale.strength", self.strength)
        object.__setattr__(self, "strength", strength)
        checks.one_of("upscale.enlarge", self.enlarge, ENLARGES)

    def size_of(self, first: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of the second pass. Raises RequestError where that is too large."""
        width, height = (round(side * self.factor / SIZE_STEP) * SIZE_STEP for side in first)
        if width * height > MAX_AREA:
            most = math.sqrt(MAX_AREA / (first[0] * first[1]))
            raise RequestError(
                f"upscale.factor {self.factor:g} makes {width}x{height} pixels of "
                f"{first[0]}x{first[1]}, and a picture has at most {MAX_AREA:,}: from there it may "
                f"be {math.floor(most * 100) / 100:g} at most, or width and height smaller"
            )
        return width, height
