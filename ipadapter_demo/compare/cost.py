"""The cost of a comparison, estimated before it starts."""

from __future__ import annotations

import time
from collections.abc import Hashable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from ipadapter_demo.compare.grid import Cell
from ipadapter_demo.compare.plan import Plan
from ipadapter_demo.errors import DemoError
from ipadapter_demo.pipeline import ImagePromptPipeline, Preview
from ipadapter_demo.pipeline.conditioning import ContentCache
from ipadapter_demo.pipeline.passes import passes_of, sizes_of_passes
from ipadapter_demo.pipeline.step_count import guided_calls, steps_taken, unet_calls
from ipadapter_demo.request import GenerateRequest

PROBE_STEPS = 3  # the first also encodes and warms up, and does not count
MEASURED = 256  # kinds of request whose pace is remembered


@dataclass(frozen=True, slots=True)
class Cost:
    """`unknown` cells are of models that are not loaded and were not measured before, and `refused`
    ones cannot be drawn, the first for the reason `why`: `seconds` are those of the others."""

    cells: int
    steps: int
    seconds: float
    unknown: int = 0
    refused: int = 0
    why: str = ""

    def __str__(self) -> str:
        cells = "1 cell" if self.cells == 1 else f"{self.cells} cells"
        made = f"{cells}, {self.steps:,} steps"
        if self.refused:
            made += f", of which {self.refused} cannot be drawn ({self.why})"
        if self.refused == self.cells:
            return made
        if self.unknown + self.refused == self.cells:
            return f"{made}: how long is known once the model is loaded"
        minutes, seconds = divmod(round(self.seconds), 60)
        time = f"{minutes} min {seconds} s" if minutes else f"{max(1, seconds)} s"
        more = f", and {self.unknown} of a model that is not loaded" if self.unknown else ""
        return f"{made}: about {time}{more}"


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds that one call of the UNet takes, and what comes after the last: decoding, saving."""

    call: float
    finish: float


class Pace:
    """The speed at which a model draws each kind of request, measured once by drawing a little.

    Visitors share what was measured, each model's by itself. Another model than the one that is
    loaded is not loaded only to look.
    """

    def __init__(self) -> None:
        self._known = ContentCache(MEASURED)

    def cost(self, plan: Plan) -> Cost:
        cells = plan.grid.cells
        pipeline = plan.manager.pipeline  # once: another visitor may change it meanwhile
        found = [self._seconds(pipeline, cell) for cell in cells]
        errors = [each for each in found if isinstance(each, DemoError)]
        return Cost(
            cells=len(cells),
            steps=sum(steps_taken(cell.planned) * cell.planned.count for cell in cells),
            seconds=sum(each for each in found if isinstance(each, float)),
            unknown=found.count(None),
            refused=len(errors),
            why=f"{errors[0]!s:.300}" if errors else "",
        )

    def _seconds(self, pipeline: ImagePromptPipeline, cell: Cell) -> float | DemoError | None:
        """An error where nothing can be drawn: the cell says it as well, and the others go on."""
        if cell.model != pipeline.info.name:
            return None
        try:
            return self._measured(pipeline, cell)
        except DemoError as error:
            return error

    def _measured(self, pipeline: ImagePromptPipeline, cell: Cell) -> float:
        request, seconds = cell.planned, 0.0
        sizes = sizes_of_passes(request, pipeline.working_size(request))
        for one, size in zip(passes_of(request), sizes, strict=True):
            if request.upscale is not None:
                one = replace(one, width=size[0], height=size[1])
            guided = guided_calls(one)
            plain = unet_calls(one) - guided
            for calls, kind in ((guided, one), (plain, replace(one, guidance=1.0))):
                if calls:
                    key = cell.model, kind_of(kind), size
                    speed = self._known.get(key, partial(measured, pipeline, kind))
                    seconds += calls * speed.call
            seconds += speed.finish
        return seconds


def kind_of(request: GenerateRequest) -> Hashable:
    """The properties of a request that decide how long a call of the UNet takes, besides model and
    size: the rows of its batch, the networks beside it, and the image prompts."""
    prompts = [
        (r.negative, r.window, r.mask is None, r.only_image, r.squares, r.adapter, r.layers)
        for r in request.references
        if r.weight > 0 and request.image_scale > 0
    ]
    return (
        request.count,
        request.guidance > 1.0,
        tuple(prompts),
        tuple(structure.kind for structure in request.structures if structure.weight > 0),
        request.inpaint is not None,
    )


def measured(pipeline: ImagePromptPipeline, request: GenerateRequest) -> Speed:
    """By a few steps of the request, each taken once, all of them with everything that acts in
    it; of a request that is drawn in pieces, as many times one piece. The quickest counts: others
    may be at work as well."""
    probe = replace(
        request,
        steps=PROBE_STEPS,
        strength=1.0,
        image_window=(0.0, 1.0),
        guidance_window=(0.0, 1.0),
        structures=tuple(replace(s, window=(0.0, 1.0)) for s in request.structures),
        inpaint=request.inpaint and replace(request.inpaint, repaint_passes=1, strength=1.0),
    )
    times, pieces = [], 1
    with closing(pipeline.stream(probe)) as events:
        for event in events:
            times.append(time.monotonic())
            if isinstance(event, Preview):
                pieces = max(1, event.steps // steps_taken(probe))
    *steps, finish = [after - before for before, after in pairwise(times)]
    return Speed(pieces * min(steps), pieces * finish)
