"""A comparison at work, in a folder of its own: cells as they finish.

    DIR/spec.json          the completed document; with inputs/ beside it, it can be run anywhere
    DIR/inputs/            every file that it names, byte for byte
    DIR/cells/p1-r2-c3.png finished cells, each with its whole request; .txt what kept one from it
    DIR/pixels.json        the SHA-256 of the pixels of each finished cell
    DIR/given/             references and maps that are shown beside the cells

What is there stays: so an interrupted job ends like any other.
"""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from ipadapter_demo.compare.complete import with_everything_said
from ipadapter_demo.compare.grid import Cell, Given
from ipadapter_demo.compare.names import BUNDLE, PIXELS, SPEC, published
from ipadapter_demo.compare.plan import Plan
from ipadapter_demo.compare.spec import Spec
from ipadapter_demo.compare.sums import Sums
from ipadapter_demo.errors import DemoError, RequestError
from ipadapter_demo.files import write_file
from ipadapter_demo.imaging import read_bytes, read_image
from ipadapter_demo.json_values import Json
from ipadapter_demo.pipeline import Result
from ipadapter_demo.record import MAX_PNG_BYTES, Record, record_from_png, save_png

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Done:
    cell: Cell
    path: Path
    seconds: float
    warnings: tuple[str, ...] = ()  # as in Result


@dataclass(frozen=True, slots=True)
class Failed:
    cell: Cell
    message: str


@dataclass(frozen=True, slots=True)
class ComparisonWarning:
    """A fact that the user should know; the comparison goes on."""

    message: str


Event = Done | Failed | ComparisonWarning


class Job:
    """Each finished cell is written to `folder` at once, so a stop loses nothing."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        """Raises RequestError where the files in `folder` are another's."""
        self._plan: Plan | None = plan
        self.folder = folder
        self.idle = threading.Event()  # nothing is added to the folder
        self.idle.set()
        self._sums = Sums(folder / PIXELS)
        self._open()

    @property
    def plan(self) -> Plan:
        """Raises RequestError once it was let go."""
        if self._plan is None:
            raise RequestError(
                "this comparison is not kept any more, to make room for those of others: what it "
                "shows stays for now; Compare draws it again"
            )
        return self._plan

    @property
    def is_kept(self) -> bool:
        return self._plan is not None

    def let_go(self) -> None:
        """Give up its files and pictures in memory. It can do nothing more."""
        self._plan = None

    def run(self) -> Iterator[Event]:
        """Draws what is missing. Closing the iterator stops it after the cells at work."""
        with closing(self.running()) as work:
            yield from (event for event in work if event is not None)

    def running(self, look_again: float | None = None) -> Generator[Event | None, None, None]:
        """The same, with None after every step, and every `look_again` seconds: closed there, it
        stops before the next step."""
        self.idle.clear()
        try:
            yield from self._running(look_again)
        finally:
            self.idle.set()

    def _running(self, look_again: float | None) -> Iterator[Event | None]:
        for model, cells in self.plan.cells.items():
            made_by = self._provenance(model, cells)
            yield from self._damaged_put_aside(cells)
            missing = [cell for cell in cells if not self._is_finished(cell, made_by[cell.name])]
            for drawn in self.plan.drawing(model, missing, look_again):
                yield drawn and self._kept(*drawn)

    def path(self, panel: Cell | Given) -> Path:
        folder = "cells" if isinstance(panel, Cell) else "given"
        return self.folder / folder / f"{panel.name}.png"

    def finished(self) -> list[Cell]:
        return [cell for cell in self.plan.grid.cells if self.path(cell).exists()]

    def message(self, cell: Cell) -> str:
        """The error of a cell that could not be drawn, or an empty text."""
        with suppress(OSError):
            return self._text(cell).read_text(encoding="utf-8")
        return ""

    def save_given(self) -> None:
        """The pictures that are shown beside the cells."""
        for page in self.plan.grid.pages:
            for given in (panel for row in page.panels for panel in row):
                if isinstance(given, Given) and not _is_picture(self.path(given)):
                    try:
                        content = io.BytesIO()
                        self.plan.picture(given).save(content, "PNG")
                        write_file(self.path(given), content.getvalue())
                    except Exception as error:  # its cells are worth more, or say it too
                        log.warning("given/%s.png is missing: %s", given.name, said(error))

    def _kept(self, cell: Cell, outcome: Result | Exception) -> Done | Failed:
        content, request = io.BytesIO(), cell.request
        if not isinstance(outcome, Exception):
            try:
                save_png(content, outcome.images[0], request, request.seed, 0, outcome.provenance)
            except RequestError as error:  # its pictures are too large to travel in it
                outcome = error
        if isinstance(outcome, Exception):
            message = said(outcome)
            write_file(self._text(cell), message.encode())
            return Failed(cell, message)
        self._sums.add(cell.name, outcome.images[0])  # first: a cell is never without its own
        write_file(self.path(cell), content.getvalue())
        self._text(cell).unlink(missing_ok=True)
        return Done(cell, self.path(cell), outcome.seconds, outcome.warnings)

    def _provenance(self, model: str, cells: Sequence[Cell]) -> dict[str, dict[str, Json]]:
        """Of cells, by their names: that of each one's LoRAs."""
        pipeline = self.plan.manager.with_model(model)
        found = {}
        for cell in cells:
            try:
                found[cell.name] = pipeline.provenance_of(cell.request)
            except DemoError:  # what is not there, or not at hand: the cell says so when drawn
                found[cell.name] = pipeline.provenance
        return found

    def _is_finished(self, cell: Cell, provenance: dict[str, Json]) -> bool:
        """By the same model, with the same request."""
        if not self.path(cell).exists():
            return False
        record = self.record(cell)
        return record.provenance == provenance and record.request == cell.request

    def record(self, cell: Cell) -> Record:
        """Of a finished cell. Raises RequestError for a file that is not whole, no cell, or one
        whose pixels are not those that were drawn."""
        content = read_bytes(self.path(cell), "file", MAX_PNG_BYTES)
        image = read_image(content, "file", MAX_PNG_BYTES)
        record = record_from_png(content)
        if self._sums.differs(cell.name, image):
            raise RequestError(
                "file has other pixels than those that were drawn: another program changed it"
            )
        return record

    def _damaged_put_aside(self, cells: list[Cell]) -> Iterator[ComparisonWarning]:
        """A file that is no cell any more, cut short, changed or saved by another program, makes
        room for a new one, and stays beside it."""
        for path, cell in [(self.path(cell), cell) for cell in cells if self.path(cell).exists()]:
            try:
                self.record(cell)
            except RequestError as error:
                path.replace(path.with_name(f"{path.name}.damaged"))
                yield ComparisonWarning(
                    f"cells/{path.name} is drawn again: {error!s:.200}. What was there is "
                    f"cells/{path.name}.damaged now."
                )

    def _text(self, cell: Cell) -> Path:
        return self.path(cell).with_suffix(".txt")

    def _open(self) -> None:
        """The folder as this comparison's. Another seed for a cell is not another comparison."""
        path, spec = self.folder / SPEC, self.plan.spec
        if path.exists() and self._before(path) | {"redraw": 0} != spec.document | {"redraw": 0}:
            raise RequestError(
                f"out: {self.folder.name} holds another comparison: name a new folder"
            )
        if not path.exists() and not self.finished():
            self._check_free()
        for name, content in spec.files.items():
            place = self.folder / name
            if not place.exists() or place.read_bytes() != content:
                write_file(place, content)
        write_file(path, spec_text(spec).encode())

    def _check_free(self) -> None:
        """A figure, or notes, of somebody's own would be overwritten without a word."""
        names = published(len(self.plan.grid.pages)) | {PIXELS, BUNDLE}
        for name in sorted(names):
            if (self.folder / name).exists():
                raise RequestError(
                    f"out: {self.folder.absolute().name} holds {name} and no comparison, and it "
                    "would be overwritten: name a new folder"
                )

    def _before(self, path: Path) -> dict[str, object]:
        try:
            found = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            found = error
        if not isinstance(found, dict):
            raise RequestError(
                f"out: {self.folder.name}/{SPEC} is damaged ({found!s:.80}), and "
                "only it knows whose cells are there: delete it to go on with "
                "this comparison, or name a new folder"
            )
        return with_everything_said(found)


def spec_text(spec: Spec) -> str:
    return json.dumps(spec.document, indent=1, ensure_ascii=False) + "\n"


def _is_picture(path: Path) -> bool:
    with suppress(RequestError):
        return read_image(path) is not None
    return False


def said(error: Exception) -> str:
    if isinstance(error, DemoError):
        return str(error)
    log.error("a part of a comparison failed", exc_info=error)
    return f"Something went wrong: {type(error).__name__}. The log says what."
