"""The plan of a comparison: its grid, and its cells drawn, model by model."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

from PIL import Image

from ipadapter_demo.compare.axes import check_effect
from ipadapter_demo.compare.cells import grid_from_spec
from ipadapter_demo.compare.complete import completed
from ipadapter_demo.compare.grid import Cell, Given
from ipadapter_demo.compare.layout import check_size
from ipadapter_demo.compare.spec import Spec
from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline import Result
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.serving import ModelManager


class Plan:
    """A completed spec, its grid, and the models to draw it with."""

    def __init__(self, spec: Spec, manager: ModelManager, again: bool = False) -> None:
        """Raises RequestError for a comparison that cannot be drawn, before anything is, and for
        an axis without effect, unless it was drawn before and is drawn `again`."""
        name = spec.comparison.model or manager.info.name
        info = manager.info_of(name) or manager.with_model(name).info
        self.spec = completed(spec, info)
        self.grid = grid_from_spec(self.spec, info)
        if not again:
            check_effect(self.spec.comparison, [cell.request for cell in self.grid.cells])
        self.manager, self.share = manager, manager.line.at_once
        for model in {cell.model for cell in self.grid.cells} - set(manager.models):
            known = ", ".join(manager.models)
            raise RequestError(f"model must be one of {known}, got {model!r:.80}")
        for cell in self.grid.cells:
            manager.cost(cell.model, [cell.request])
        check_size(self.grid, self.spec.comparison.figure, self._aspect)

    @property
    def cells(self) -> dict[str, list[Cell]]:
        """By their models, in the order in which these come, so that each is loaded once."""
        found: dict[str, list[Cell]] = {}
        for cell in self.grid.cells:
            found.setdefault(cell.model, []).append(cell)
        return found

    def drawn(self, model: str, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Result | Exception]]:
        """Each cell, all of one model, with its result or the error that kept it from one."""
        with closing(self.drawing(model, cells)) as work:
            yield from (drawn for drawn in work if drawn is not None)

    def drawing(
        self, model: str, cells: Sequence[Cell], look_again: float | None = None
    ) -> Generator[tuple[Cell, Result | Exception] | None, None, None]:
        """The same, with None where one may be left: see `ModelManager.background`."""
        for start in range(0, len(cells), self.share):
            part = cells[start : start + self.share]
            allowed: list[Cell] = []
            for cell in part:  # now that the model is loaded, for which all of its cells waited
                try:
                    self.manager.cost(model, [cell.request])
                    allowed.append(cell)
                except RequestError as error:
                    yield cell, error
            work = self.manager.background(model, [cell.request for cell in allowed], look_again)
            outcomes = yield from work
            yield from zip(allowed, outcomes, strict=True)

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
            return given.request.references[0].picture
        return self.maps(given.model, given.request)[0]
