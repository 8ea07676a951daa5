"""The plan of a comparison: its cells in batches, model by model.

Batches depend on the spec alone, so that drawing them again, all or some, gives the same pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from PIL import Image

from ipadapter_demo.compare.cells import grid_from_spec
from ipadapter_demo.compare.complete import completed
from ipadapter_demo.compare.grid import Cell, Given
from ipadapter_demo.compare.layout import check_size
from ipadapter_demo.compare.spec import Spec
from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline import Result, can_batch
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.serving import ModelManager

BATCH = 4  # 15 % faster than one by one on a CPU; more gains nothing there

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """Cells that are drawn together: as planned, or one again from another seed.

    A cell that is drawn again keeps its place beside the others, whose pixels depend on it."""

    model: str
    cells: tuple[Cell, ...]
    redrawn: bool = False

    @property
    def requests(self) -> list[GenerateRequest]:
        return [cell.request if self.redrawn else cell.planned for cell in self.cells]

    @property
    def wanted(self) -> list[Cell]:
        return [cell for cell in self.cells if self.redrawn or cell.redrawn is None]


class Plan:
    """A completed spec, its grid, and the models to draw it with."""

    def __init__(self, spec: Spec, manager: ModelManager, batch: int = BATCH) -> None:
        """Raises RequestError for a comparison that cannot be drawn, before anything is."""
        name = spec.comparison.model or manager.info.name
        info = manager.info_of(name) or manager.with_model(name).info
        self.spec = completed(spec, info)
        self.grid = grid_from_spec(self.spec, info)
        self.manager, self.batch = manager, batch
        for model in {cell.model for cell in self.grid.cells} - set(manager.models):
            known = ", ".join(manager.models)
            raise RequestError(f"model must be one of {known}, got {model!r:.80}")
        check_size(self.grid, self.spec.comparison.figure, self._aspect)

    @cached_property
    def batches(self) -> list[Batch]:
        """Model by model, in the order in which they come, so that each is loaded once."""
        cells, found = self.grid.cells, []
        for model in dict.fromkeys(cell.model for cell in cells):
            begun: list[list[Cell]] = []
            for cell in (cell for cell in cells if cell.model == model):
                mine = next(
                    (
                        b
                        for b in begun
                        if len(b) < self.batch and can_batch(b[0].planned, cell.planned)
                    ),
                    None,
                )
                if mine is None:
                    begun.append([cell])
                else:
                    mine.append(cell)
            found += [Batch(model, tuple(batch)) for batch in begun]
            found += [
                Batch(model, (cell,), redrawn=True)
                for cell in cells
                if cell.model == model and cell.redrawn is not None
            ]
        return found

    def drawn(self, batch: Batch) -> Iterator[tuple[Cell, Result | Exception]]:
        """The wanted cells of a batch. Where it fails each comes by itself: then what can be drawn
        is."""
        try:
            results = self.manager.draw_in_background(batch.model, batch.requests)
        except Exception as error:
            if len(batch.cells) == 1:
                yield batch.cells[0], error
                return
            log.info("a batch of %d failed, its cells come one by one: %s", len(batch.cells), error)
            for cell in batch.wanted:
                yield from self.drawn(Batch(batch.model, (cell,)))
            return
        found = zip(batch.cells, results, strict=True)
        yield from ((cell, result) for cell, result in found if cell in batch.wanted)

    def maps(self, model: str, request: GenerateRequest) -> list[Image.Image]:
        """The maps that the structure networks read for a request."""
        return self.manager.with_model(model).structure_maps(request)

    def _aspect(self, request: GenerateRequest) -> float:
        """Height by width of the picture that a request gives, as the loaded model sees it."""
        inpaint = request.inpaint
        width, height = (
            inpaint.image.size
            if inpaint is not None
            else self.manager.pipeline.working_size(request)
        )
        return height / width

    def picture(self, given: Given) -> Image.Image:
        """The picture beside the cells: a reference, or a map as the network reads it."""
        if given.kind == "reference":
            return given.request.references[0].image
        return self.maps(given.model, given.request)[0]
