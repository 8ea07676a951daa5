"""From a job's cells to a bundle: whatever else fails, the cells are in it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ipadapter_demo.compare.bundle import RERUN, maps_by_cell
from ipadapter_demo.compare.figure import page_figures
from ipadapter_demo.compare.job import Job, said
from ipadapter_demo.compare.latex import snippet
from ipadapter_demo.compare.manifest import manifest_text
from ipadapter_demo.compare.names import (
    BUNDLE,
    FIGURE,
    MANIFEST,
    NOTES,
    SCORES,
    SCRIPT,
    SPEC,
    published,
)
from ipadapter_demo.compare.scores import Score, scores, scores_csv
from ipadapter_demo.compare.text import undrawable
from ipadapter_demo.files import whole_file, write_file

_DAY = (1980, 1, 1, 0, 0, 0)  # the first that a zip knows
_SHOWN = 12  # of the letters that no font has

Files = Iterable[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Published:
    """A bundle, the numbers in it, and a line for whatever in it is missing or not as expected."""

    path: Path
    scores: tuple[Score, ...]
    warnings: tuple[str, ...]


def write_bundle(job: Job, clip: Path | None = None) -> Published:
    """Everything that is finished, as DIR/bundle.zip and beside it in DIR.

    `clip` is a folder with a CLIP model to score by. A part that cannot be made, a page of the
    figure say, is left out, and warnings.txt in the bundle says why.
    """
    scored: list[Score] = []
    maps: dict[str, dict[str, bytes]] = {}

    def numbers() -> Iterator[tuple[str, bytes]]:
        scored.extend(scores(job, clip))
        yield SCORES, scores_csv(job, scored).encode()

    def read_by_networks() -> Iterator[tuple[str, bytes]]:
        maps.update(maps_by_cell(job))
        for own in maps.values():
            yield from own.items()

    parts = _Parts(_lacking_letters(job))
    for number in range(1, len(job.plan.grid.pages) + 1):
        parts.add(f"page {number} of the figure", lambda: page_figures(job, number))  # noqa: B023
    parts.add(FIGURE, lambda: [(FIGURE, snippet(job.plan.spec, job.plan.grid).encode())])
    parts.add(SCORES, numbers)
    parts.add("a map of a structure", read_by_networks)
    parts.add(MANIFEST, lambda: [(MANIFEST, manifest_text(job, maps).encode())])
    files = parts.files | {SCRIPT: RERUN.encode()}
    if parts.warnings:
        files[NOTES] = "".join(f"{note}\n" for note in parts.warnings).encode()
    of_an_earlier_time = published(len(job.plan.grid.pages)) - set(files)
    for name in of_an_earlier_time:
        (job.folder / name).unlink(missing_ok=True)
    for name, content in files.items():
        write_file(job.folder / name, content)
    return Published(_zipped(job, files), tuple(scored), tuple(parts.warnings))


class _Parts:
    """Files as they are made, and the reasons for those that are missing."""

    def __init__(self, warnings: list[str]) -> None:
        self.files: dict[str, bytes] = {}
        self.warnings = warnings

    def add(self, what: str, make: Callable[[], Files]) -> None:
        try:
            for name, content in make():
                self.files[name] = content
        except Exception as error:  # fonts, memory, a damaged picture: the cells are worth more
            self.warnings.append(f"{what} could not be made: {said(error)}")


def _lacking_letters(job: Job) -> list[str]:
    """Warnings about heads that the figure shows by the names of their letters."""
    heads = [
        head
        for page in job.plan.grid.pages
        for head in (page.label, *page.row_heads, *page.column_heads)
    ]
    letters = undrawable("".join(heads))
    if not letters:
        return []
    more = " …" if len(letters) > _SHOWN else ""
    return [
        f"no font on this machine has {' '.join(letters[:_SHOWN])}{more}: in the figure these "
        "stand by their names; install one that has them, as Noto Sans CJK, and publish again"
    ]


def _zipped(job: Job, files: Iterable[str]) -> Path:
    """Of equal files the same bytes. One file at a time is in memory: all cells together, each with
    the pictures of its request, may take tens of GB."""
    folder = job.folder
    panels = [panel for page in job.plan.grid.pages for row in page.panels for panel in row]
    paths = [folder / name for name in files]
    paths += [job.path(panel) for panel in panels if panel and job.path(panel).exists()]
    paths += [folder / name for name in (SPEC, *sorted(job.plan.spec.files))]
    with whole_file(folder / BUNDLE) as temporary, zipfile.ZipFile(temporary, "w") as bundle:
        for path in paths:
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _DAY)
            entry.external_attr = (0o755 if path.suffix == ".sh" else 0o644) << 16
            if path.suffix != ".png":  # deflated already, but for the base64 in a cell
                entry.compress_type = zipfile.ZIP_DEFLATED
            bundle.writestr(entry, path.read_bytes())
    return folder / BUNDLE
