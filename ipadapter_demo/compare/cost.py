"""What a comparison costs, before it starts."""

from __future__ import annotations

import time
from collections.abc import Hashable
from contextlib import closing
from dataclasses import dataclass, replace

from ipadapter_demo.compare.plan import Plan
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.request import GenerateRequest

PROBE_STEPS = 3  # the first also encodes and warms up, and does not count


@dataclass(frozen=True, slots=True)
class Cost:
    cells: int
    steps: int
    seconds: float

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        time = f"{minutes} min {seconds} s" if minutes else f"{max(1, seconds)} s"
        cells = "1 cell" if self.cells == 1 else f"{self.cells} cells"
        return f"{cells}, {self.steps:,} steps: about {time}"


class Pace:
    """Seconds that a step takes, measured once for every kind of request by drawing a little.

    Always on the model that is loaded: another is not loaded only to look.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, float] = {}

    def cost(self, plan: Plan) -> Cost:
        cells = plan.grid.cells
        steps = sum(cell.planned.steps for cell in cells)
        seconds = sum(cell.planned.steps * self._seconds(plan.studio.pipeline, cell.planned)
                      for cell in cells)
        return Cost(len(cells), steps, seconds)

    def _seconds(self, pipeline: ImagePromptPipeline, request: GenerateRequest) -> float:
        kinds = tuple(structure.kind for structure in request.structures)
        key = (pipeline.info.name, pipeline.working_size(request), request.guidance > 1.0, kinds)
        if key not in self._known:
            probe = replace(request, steps=PROBE_STEPS, strength=1.0)
            with closing(pipeline.stream(probe)) as events:
                next(events)
                began = time.monotonic()
                for _ in range(PROBE_STEPS - 1):
                    next(events)
                self._known[key] = (time.monotonic() - began) / (PROBE_STEPS - 1)
        return self._known[key]
