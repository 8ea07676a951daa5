"""Many pictures with the settings of a tab, each in the place of its reference; a zip of all."""

from __future__ import annotations

import secrets
import zipfile
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from ipadapter_demo.compare.spec import numbered
from ipadapter_demo.errors import RequestError
from ipadapter_demo.files import whole_file
from ipadapter_demo.folders import ENDINGS, MANIFEST, FolderRun, Line
from ipadapter_demo.imaging import flatten_image, read_image, shrink_to_area
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.room import room_for
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.size_limits import MAX_AREA
from ipadapter_demo.ui.run.endpoint import endpoint
from ipadapter_demo.ui.run.errors import with_errors_said
from ipadapter_demo.ui.run.labels import with_labels
from ipadapter_demo.ui.run.running import AT_ONCE, request_from_values
from ipadapter_demo.ui.run.say import escaped
from ipadapter_demo.ui.run.status import status_line
from ipadapter_demo.ui.run.tab import BuiltTab, Buttons, Update
from ipadapter_demo.ui.run.updates import LOOK_AGAIN, now_and_then, progress
from ipadapter_demo.ui.run.uploads import path_of_upload, value_from_widget
from ipadapter_demo.ui.run.visitor import this_visitor

MOST, MOST_RESULTS = 50, 100  # pictures of one batch, and results of all of them
SAID = 5  # pictures whose errors are said; the manifest has all of them

# A queue of its own: what is drawn in the background holds up no single picture. How many there are
# is the manager's business.
QUEUE: dict[str, object] = {"concurrency_id": "batch", "concurrency_limit": None}


def add_batch(manager: ModelManager, built: BuiltTab) -> None:
    """An accordion at the end of a tab."""
    # Stands for every picture: as many squares as any has, so that no price is too low.
    shown, blank = built.results, Image.new("RGB", (4, 1))
    with gr.Accordion("Many pictures", open=False):
        pictures = gr.File(
            label=f"References, up to {MOST}: each is used in turn",
            file_count="multiple",
            file_types=[f".{ending}" for ending in ENDINGS],
            height=150,
        )
        with gr.Row():
            start = gr.Button("Draw all", scale=3)
            stop = gr.Button("Stop and zip", interactive=False, scale=1, min_width=120)
        status = status_line()
        archive = gr.File(label="All results", interactive=False, visible=False)
    folder = gr.State(None)  # of the results of the last batch
    others = shown.without() | {shown.status: ""}  # all that is of pictures of before

    def said(text: str) -> Update:
        return {status: text}

    fields = {"pictures": pictures} | built.inputs

    def drawn(pictures: object, values: dict[str, object]) -> Iterator[Update]:
        files = _files(pictures)
        model = value_from_widget(built.inputs["model"], values.pop("model"), "model")
        for name in ("attention", "shape", "live"):
            values.pop(name, None)
        request = request_from_values(built, values | {"reference": blank})
        if len(files) * request.count > MOST_RESULTS:
            raise RequestError(
                f"pictures must give at most {MOST_RESULTS} results, "
                f"got {len(files)} pictures x {request.count} images"
            )
        manager.cost(model, [request] * len(files))  # or an error
        out = Path(get_upload_folder()) / secrets.token_hex(16)
        run = FolderRun(request, 0, out, read=_read)

        def draw(requests: Iterable[GenerateRequest]) -> Generator[object, None, None]:
            todo = iter(requests)
            while part := list(islice(todo, manager.line.at_once)):
                outcomes = yield from manager.background(model, part, LOOK_AGAIN)
                yield from outcomes

        def update(lines: list[Line]) -> Update:
            paths = [str(out / str(line["path"])) for line in lines if "path" in line]
            done = len({line["reference"] for line in lines})
            return {
                shown.gallery: gr.Gallery(paths, columns=4, allow_preview=True),
                status: progress(done, len(files), "picture"),
            }

        lines: list[Line] = []
        yield update(lines) | {
            folder: str(out),
            archive: gr.File(None, visible=False),
            built.inputs["seed"]: request.seed,
            **others,
        }
        due = now_and_then()
        with manager.comparison(this_visitor()):
            for line in run.lines(files.items(), draw):
                if line is not None:
                    lines.append(line)
                    yield update(lines)
                elif due():
                    yield {}
        yield {status: _summary(lines, len(files))} | zipped(str(out))

    def batch(pictures: object, **values: object) -> Iterator[Update]:
        """Results of many pictures, each in the place of the reference, with the tab's other
        values; then a zip of them."""
        updates = with_labels(drawn(pictures, values), fields)
        yield from with_errors_said(updates, said)

    def zipped(out: str | None) -> Update:
        if out is None or not (path := _archive(Path(out))):
            return {}
        return {archive: gr.File(str(path), visible=True)}

    def halted(out: str | None) -> Update:
        """After Stop, at which no update of the run comes any more."""
        count = len(_results(Path(out))) if out else 0
        return zipped(out) | {
            status: f"Stopped. Results in the zip: {count}."
            if count
            else "Stopped before a result."
        }

    buttons = Buttons(start, stop)
    began = start.click(buttons.busy, outputs=buttons.all, **AT_ONCE)
    running = endpoint(
        began.then,
        batch,
        fields,
        [shown.gallery, status, archive, built.inputs["seed"], folder, *others],
        show_progress="hidden",
        api_name=f"{built.tab.translate.__name__}_batch",
        api_visibility="private",  # a program calls the tab's own endpoint for each picture
        **QUEUE,
    )
    running.then(buttons.idle, outputs=buttons.all, **AT_ONCE)
    running.failure(buttons.idle, outputs=buttons.all, **AT_ONCE)
    stopped = stop.click(None, cancels=[running])
    stopped.then(
        halted,
        inputs=folder,
        outputs=[archive, status],
        show_progress="hidden",
        api_visibility="private",
    )


def _files(pictures: object) -> dict[str, Path]:
    """The uploads by name; further ones of a name are numbered, none is lost."""
    if not isinstance(pictures, list) or not 0 < len(pictures) <= MOST:
        count = len(pictures) if isinstance(pictures, list) else 0
        raise RequestError(f"pictures must be 1 to {MOST} uploaded files, got {count}")
    paths = [path_of_upload(upload, "pictures") for upload in pictures]
    return dict(zip(numbered([path.name for path in paths]), paths, strict=True))


def _read(content: bytes, name: str) -> Image.Image:
    """With no more pixels than a result may have, as any picture of a request on the page."""
    with room_for(content):
        return shrink_to_area(flatten_image(read_image(content, name), name), MAX_AREA)


def _failure_of(line: Line) -> str:
    """Its error, after the name of the picture."""
    name, error = line["reference"], str(line["error"])
    return error if error.startswith(f"{name} ") else f"{name}: {error}"


def _summary(lines: list[Line], asked: int) -> str:
    failed = [_failure_of(line) for line in lines if "error" in line]
    text = f"{asked - len(failed)} of {asked} pictures are drawn; the zip has all results."
    more = [f"{len(failed) - SAID} more: see {MANIFEST}"] if len(failed) > SAID else []
    return "<br>".join(escaped(each) for each in [text, *failed[:SAID], *more])


def _results(out: Path) -> list[Path]:
    return sorted(path for path in out.glob("*.png") if not path.name.startswith("."))


def _archive(out: Path) -> Path | None:
    """All that is finished in a folder of results, in one file; None where nothing is."""
    results = _results(out)
    if not results:
        return None
    path = out / "pictures.zip"
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for file in [*results, out / MANIFEST]:
            archive.write(file, file.name)
    return path
