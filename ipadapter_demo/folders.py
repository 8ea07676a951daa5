"""A request drawn once with each picture of a folder as its reference: what is there stays.

DIR/manifest.jsonl       a line of JSON for each picture that was drawn, or could not be
DIR/cats/tom.jpg-7.png   a result, with its whole request: of FOLDER/cats/tom.jpg, from seed 7
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ipadapter_demo.compare.job import said
from ipadapter_demo.errors import RequestError
from ipadapter_demo.files import write_file
from ipadapter_demo.imaging import read_bytes, read_image
from ipadapter_demo.json_values import Json
from ipadapter_demo.pipeline.events import Result
from ipadapter_demo.record import Recording, record_from_png, request_to_json
from ipadapter_demo.request import GenerateRequest, Reference

if TYPE_CHECKING:
    from ipadapter_demo.pipeline import ImagePromptPipeline

MANIFEST = "manifest.jsonl"
ENDINGS = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "hif")

Line = dict[str, Json]
# Yields each request's Result, or the error that kept it from one, in order; between them something
# else, where it may be stopped.
Draw = Callable[[Iterable[GenerateRequest]], Generator[object, None, None]]


def draw_folder(
    pipeline: ImagePromptPipeline,
    request: GenerateRequest,
    folder: Path | str,
    out: Path | str,
    at: int = 0,
) -> Generator[Line, None, None]:
    """`request` with each picture of `folder`, and of those in it, in the place of the picture of
    its reference number `at`, from 0.

    Results and their manifest are written to `out`, and what was drawn there before, with the same
    settings, weights and picture, is not drawn again. Yields the manifest's new lines: `reference`,
    `path`, `seed` and `seconds` of a result, `reference` and `error` of a picture that has none.
    Raises RequestError for a folder without pictures, and a request without the reference.
    """
    folder, out = Path(folder), Path(out)
    count = len(request.references)
    if not 0 <= at < count:
        raise RequestError(
            f"at must be the number of one of the request's {count} references, from 0, got {at}"
        )
    names = pictures_in(folder, out)
    run = FolderRun(request, at, out, pipeline.provenance_of(request).get("weights"))
    pictures = ((name, folder / name) for name in names)
    yield from (line for line in run.lines(pictures, pipeline.outcomes) if line is not None)


def pictures_in(folder: Path, out: Path) -> list[str]:
    """The pictures of a folder by their names from there, in order, without those below `out`."""
    if folder.resolve() == out.resolve():
        raise RequestError(f"out must be another folder than that of the references, {folder}")

    def unreadable(error: OSError) -> None:
        raise error

    found = []
    for place, folders, files in os.walk(folder, onerror=unreadable):
        inside = Path(place)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and (inside / name).resolve() != out.resolve()
        ]
        found += [
            (inside / name).relative_to(folder).as_posix()
            for name in files
            if not name.startswith(".") and name.lower().endswith(tuple(f".{e}" for e in ENDINGS))
        ]
    if not found:
        raise RequestError(f"{folder} holds no picture: a file named .{', .'.join(ENDINGS)}")
    return sorted(found)


class FolderRun:
    """Pictures as the reference `at` of a request, one after the other, with results in `out`."""

    def __init__(
        self,
        request: GenerateRequest,
        at: int,
        out: Path,
        weights: Json = None,
        read: Callable[[bytes, str], Image.Image] = read_image,
    ) -> None:
        self._request, self._at, self._out, self._read = request, at, out, read
        # stands for every picture: as large as what is hidden of them, which has their proportions
        hidden = request.references[at].clip_mask
        blank = Image.new("RGB", hidden.size if hidden else (1, 1))
        settings = json.dumps([request_to_json(self._with(blank)), weights], sort_keys=True)
        self._settings = hashlib.sha256(settings.encode()).hexdigest()
        self._drawn: dict[tuple[Json, ...], set[str]] = {}  # the results of each picture
        self._paths: set[str] = set()
        self._remember(self._open())

    def lines(self, pictures: Iterable[tuple[str, Path]], draw: Draw) -> Iterator[Line | None]:
        """Draws what is missing of the pictures, given by their names and files; None where it may
        be stopped, too. Closing the iterator does so; then what is at work is lost, and nothing
        else."""
        at_work: deque[tuple[str, str]] = deque()
        unreadable: list[Line] = []

        def requests() -> Iterator[GenerateRequest]:
            for name, path in pictures:
                try:
                    content = read_bytes(path, name)
                    digest = hashlib.sha256(content).hexdigest()
                    if self._is_drawn(name, digest):
                        continue
                    request = self._with(self._read(content, name))
                except RequestError as error:
                    unreadable.append({"reference": name, "error": str(error)})
                    continue
                at_work.append((name, digest))
                yield request

        with closing(draw(requests())) as outcomes:
            for outcome in outcomes:
                if not isinstance(outcome, Result | Exception):
                    yield None
                    continue
                yield from self._written(self._kept(*at_work.popleft(), outcome))
                yield from self._written(unreadable)
                unreadable.clear()
        yield from self._written(unreadable)

    def _with(self, image: Image.Image) -> GenerateRequest:
        """A reference that is the same picture in noise, or as a negative one, is so of the new
        one."""
        references = self._request.references
        before = references[self._at].image

        def follows(other: Reference) -> bool:
            same = before is not None and other.image == before
            return same and (other.negative or other.noise > 0)

        return replace(
            self._request,
            references=tuple(
                replace(r, image=image) if i == self._at or follows(r) else r
                for i, r in enumerate(references)
            ),
        )

    def _kept(self, name: str, digest: str, outcome: Result | Exception) -> list[Line]:
        if isinstance(outcome, Exception):
            return [{"reference": name, "error": said(outcome)}]
        lines: list[Line] = []
        try:
            recording = Recording(outcome.request, outcome.provenance)
            for index, (image, seed) in enumerate(zip(outcome.images, outcome.seeds, strict=True)):
                content = io.BytesIO()
                recording.save(content, image, seed, index)
                path = self._place(f"{name}-{seed}", outcome.request)
                write_file(self._out / path, content.getvalue())
                lines.append(
                    {
                        "reference": name,
                        "path": path,
                        "seed": seed,
                        "seconds": round(outcome.seconds, 3),
                        **({"warnings": list(outcome.warnings)} if outcome.warnings else {}),
                        "sha256": digest,
                        "settings": self._settings,
                    }
                )
        except RequestError as error:  # too large to travel inside a PNG
            return [{"reference": name, "error": str(error)}]
        return lines

    def _place(self, name: str, request: GenerateRequest) -> str:
        """name.png, or name-2.png, ...: nothing is overwritten but a result that an interrupted run
        had no time to list, which this one is again."""
        number = 1
        while True:
            place = f"{name}.png" if number == 1 else f"{name}-{number}.png"
            path = self._out / place
            if not path.exists():
                return place
            if place not in self._paths:
                try:
                    if record_from_png(path).request == request:
                        return place
                except RequestError:
                    pass  # somebody else's
            number += 1

    def _is_drawn(self, name: str, digest: str) -> bool:
        paths = self._drawn.get((name, digest, self._settings), set())
        return sum((self._out / path).is_file() for path in paths) >= self._request.count

    def _remember(self, lines: list[Line]) -> None:
        for line in lines:
            if isinstance(path := line.get("path"), str):
                key = tuple(map(line.get, ("reference", "sha256", "settings")))
                self._drawn.setdefault(key, set()).add(path)
                self._paths.add(path)

    def _open(self) -> list[Line]:
        """The lines of the manifest so far, without one that was cut short."""
        self._out.mkdir(parents=True, exist_ok=True)
        path = self._out / MANIFEST
        text = path.read_bytes() if path.exists() else b""
        whole, _, torn = text.rpartition(b"\n")
        if torn:
            write_file(path, whole + b"\n" if whole else b"")
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
        except (ValueError, RecursionError) as error:
            raise RequestError(f"out: {path} is damaged: {error!s:.80}") from error
        return [line for line in lines if isinstance(line, dict)]

    def _written(self, lines: list[Line]) -> list[Line]:
        """All of them at once, so that those of one picture stay together."""
        if lines:
            with (self._out / MANIFEST).open("ab") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
            self._remember(lines)
        return list(lines)
