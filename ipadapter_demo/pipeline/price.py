"""The price of a request, known before it runs: in calls of the model for one picture at the
model's own size.

What else costs something is counted in the same unit, by shares that were measured or are known
from the sizes of the published networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from PIL import Image

from ipadapter_demo.models.catalog import StructureEntry
from ipadapter_demo.pipeline.conditions import is_active
from ipadapter_demo.pipeline.passes import passes_of, sizes_of_passes
from ipadapter_demo.pipeline.sizes import Size
from ipadapter_demo.pipeline.step_count import guided_calls, steps_taken, unet_calls
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.size_limits import SIZE_STEP

CONTROLNET = 0.5  # of a call: half of a UNet
BRANCH = 0.05  # of a call, for each square of a reference that its attention reads
READING = 0.5  # of one reference, map or given picture, once
DECODING = 3.0  # of one picture, previews too; the published autoencoders are that large
# Attention compares all places of a picture with all others: a picture of n times the model's own
# area costs n (1 + (n - 1) / 40). Measured on tabletop, n = 4, 16, 64 cost 3.4, 17, 152.
QUADRATIC = 40
# Of the calls of one step: more are made in several pieces, a few pictures after the others, so
# that nobody waits long for one step of somebody else.
PIECE = 64


@dataclass(frozen=True, slots=True)
class Price:
    """`calls` are those of each picture, with all that is counted as calls, of which one costs
    `area` at the `size` that is drawn, and 1 at the model's own. `fields` made them up. Of two
    passes, the size is that of the second, and the calls of the first are counted as so many of
    those."""

    pictures: int
    calls: float
    size: Size
    area: float
    fields: tuple[str, ...]

    @property
    def total(self) -> float:
        return self.pictures * self.calls * self.area

    def __str__(self) -> str:
        return (
            f"count {self.pictures} x {self.calls:,.1f} calls each "
            f"({', '.join(self.fields)}) x {self.area:.2f} for "
            f"{self.size[0]}x{self.size[1]} pixels"
        )


def price_of(
    drawn: GenerateRequest,
    size: Size,
    native: int,
    structures: Mapping[str, StructureEntry],
    preview_every: int = 0,
) -> Price:
    """Of what a model of `native` x `native` pixels draws at `size`, with previews after every
    `preview_every` steps (0: none). `structures` are the networks that it has."""
    passes = list(zip(passes_of(drawn), sizes_of_passes(drawn, size), strict=True))
    areas = [_price_of_area(at, native) for _, at in passes]
    steps, done, calls = steps_taken(drawn), 0, 0.0
    for (one, _), area in zip(passes, areas, strict=True):
        before, done = done, done + steps_taken(one)
        due = range(preview_every, steps, preview_every) if preview_every else range(0)
        previews = sum(before < step <= done for step in due)
        calls += _calls(one, structures, previews) * (area / areas[-1])
    fields = [f"steps {steps}", f"guidance {drawn.guidance:g}"]
    if drawn.inpaint is not None and drawn.inpaint.repaint_passes > 1:
        fields.append(f"inpaint.repaint_passes {drawn.inpaint.repaint_passes}")
    for name, number in (("references", _squares(drawn)), ("structures", len(drawn.structures))):
        if number:
            fields.append(f"{name} {number}")
    if drawn.upscale is not None:
        fields.append(f"upscale.factor {drawn.upscale.factor:g}")
    return Price(drawn.count, calls, passes[-1][1], areas[-1], tuple(fields))


def _calls(one: GenerateRequest, structures: Mapping[str, StructureEntry], previews: int) -> float:
    """Of one pass, for each picture, with all that is counted as calls."""
    steps, calls = steps_taken(one), unet_calls(one) + guided_calls(one)
    beside = BRANCH * _squares(one)
    for structure in one.structures:
        known = structures.get(structure.kind)
        if known is None or known.network == "controlnet":  # of one that is not there: the dearer
            active = sum(is_active(structure.window, i, steps) for i in range(steps))
            beside += CONTROLNET * active / steps
    given = one.inpaint is not None or one.init_image is not None
    read = _squares(one) + len(one.structures) + given
    return calls * (1 + beside) + DECODING * (1 + previews) + READING * read / one.count


def _squares(drawn: GenerateRequest) -> int:
    """The pictures that adapters read: one of each reference, or the squares of it."""
    return sum(reference.squares for reference in drawn.references)


def pieces_of(drawn: GenerateRequest, size: Size, native: int) -> list[GenerateRequest]:
    """The same request in parts of a few pictures, whose steps cost at most PIECE, or which are of
    one picture. Image i of the request is from seed + i in any of them."""
    rows = 2 if drawn.guidance > 1.0 else 1
    most = max(1, int(PIECE / (rows * _price_of_area(size, native))))
    if drawn.count <= most:
        return [drawn]
    return [
        _part(drawn, first, min(most, drawn.count - first)) for first in range(0, drawn.count, most)
    ]


def rank_of(price: float) -> int:
    """Who asks for less comes first; those of one rank, whose prices differ by less than a factor
    of two, come one after the other."""
    return int(max(price, 1.0)).bit_length()


def _part(drawn: GenerateRequest, first: int, count: int) -> GenerateRequest:
    """Pictures from the one numbered `first` on, `count` of them."""
    references = []
    for reference in drawn.references:
        number = reference.only_image
        if number is None:
            references.append(reference)
        elif first <= number < first + count:
            references.append(replace(reference, only_image=number - first))
        elif reference.negative:  # there is one, which counts for the others, but it acts nowhere
            nowhere = Image.new("L", (SIZE_STEP, SIZE_STEP))
            references.append(replace(reference, only_image=None, mask=nowhere))
    return replace(drawn, count=count, seed=drawn.seed + first, references=tuple(references))


def _price_of_area(size: Size, native: int) -> float:
    area = size[0] * size[1] / native**2
    return area if area <= 1 else area * (1 + (area - 1) / QUADRATIC)
