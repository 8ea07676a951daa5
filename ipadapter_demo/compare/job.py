"""A comparison at work, in a folder of its own: cells as they finish.

    DIR/spec.json          the completed document; with inputs/ beside it, it can be run anywhere
    DIR/inputs/            every file that it names, byte for byte
    DIR/cells/p1-r2-c3.png finished cells, each with its whole request; .txt what kept one from it
    DIR/given/             references and maps that are shown beside the cells

A batch of which anything is missing is drawn again as a whole, and what is there stays: so an
interrupted job ends like any other.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipadapter_demo.compare.grid import Cell, Given
from ipadapter_demo.compare.plan import Plan
from ipadapter_demo.compare.spec import Spec
from ipadapter_demo.errors import DemoError, RequestError
from ipadapter_demo.pipeline import Result
from ipadapter_demo.record import record_from_png, save_png

SPEC = "spec.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Done:
    cell: Cell
    path: Path
    seconds: float  # its share of the batch
    notes: tuple[str, ...] = ()  # as in Result


@dataclass(frozen=True, slots=True)
class Failed:
    cell: Cell
    message: str


class Job:
    """What belongs in `folder` is written there as it comes, so nothing is lost by a stop."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        """Raises RequestError where the cells in `folder` are another comparison's."""
        self.plan, self.folder = plan, folder
        self._open()

    def run(self) -> Iterator[Done | Failed]:
        """Draws what is missing. Closing the iterator stops it after the batch at work."""
        for batch in self.plan.batches:
            facts = self.plan.studio.with_model(batch.model).facts
            if all(self._is_finished(cell, facts) for cell in batch.wanted):
                continue
            for cell, outcome in self.plan.drawn(batch):
                yield self._kept(cell, outcome, facts)

    def path(self, panel: Cell | Given) -> Path:
        folder = "cells" if isinstance(panel, Cell) else "given"
        return self.folder / folder / f"{panel.name}.png"

    def finished(self) -> list[Cell]:
        return [cell for cell in self.plan.grid.cells if self.path(cell).exists()]

    def message(self, cell: Cell) -> str:
        """What kept a cell from being drawn, or nothing."""
        with suppress(OSError):
            return self._text(cell).read_text(encoding="utf-8")
        return ""

    def save_given(self) -> None:
        """The pictures that are shown beside the cells."""
        for page in self.plan.grid.pages:
            for given in (panel for row in page.panels for panel in row):
                if isinstance(given, Given) and not self.path(given).exists():
                    with suppress(DemoError):  # its cells will say what is wrong
                        content = io.BytesIO()
                        self.plan.picture(given).save(content, "PNG")
                        write(self.path(given), content.getvalue())

    def _kept(self, cell: Cell, outcome: Result | Exception,
              facts: dict[str, Any]) -> Done | Failed:
        if isinstance(outcome, Exception):
            message = _said(outcome)
            write(self._text(cell), message.encode())
            return Failed(cell, message)
        if not self._is_finished(cell, facts):  # what is there stays as it is
            content = io.BytesIO()
            save_png(content, outcome.images[0], cell.request, cell.request.seed, 0, facts)
            write(self.path(cell), content.getvalue())
        self._text(cell).unlink(missing_ok=True)
        return Done(cell, self.path(cell), outcome.seconds, outcome.notes)

    def _is_finished(self, cell: Cell, facts: dict[str, Any]) -> bool:
        """By the same model, with the same request."""
        path = self.path(cell)
        if not path.exists():
            return False
        record = record_from_png(path)
        return record.facts == facts and record.request == cell.request

    def _text(self, cell: Cell) -> Path:
        return self.path(cell).with_suffix(".txt")

    def _open(self) -> None:
        """The folder as this comparison's. Another seed for a cell is not another comparison."""
        path, spec = self.folder / SPEC, self.plan.spec
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            if before | {"redraw": 0} != spec.document | {"redraw": 0}:
                raise RequestError(f"out: {self.folder.name} holds another comparison: "
                                   "name a new folder")
        for name, content in spec.files.items():
            if not (self.folder / name).exists():
                write(self.folder / name, content)
        write(path, spec_text(spec).encode())


def spec_text(spec: Spec) -> str:
    return json.dumps(spec.document, indent=1, ensure_ascii=False) + "\n"


def write(path: Path, content: bytes) -> None:
    """A kill leaves the old file or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _said(error: Exception) -> str:
    if isinstance(error, DemoError):
        return str(error)
    log.error("a cell failed", exc_info=error)
    return f"Something went wrong: {type(error).__name__}. The log says what."
