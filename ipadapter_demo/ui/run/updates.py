"""Updates of the page during a run: pictures, progress, and how to make them again."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from ipadapter_demo.compare.strip import filmstrip
from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline import ImagePromptPipeline, Preview, Result
from ipadapter_demo.pipeline.step_count import steps_taken
from ipadapter_demo.record import Recording
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.room import record_at
from ipadapter_demo.serving import Turn
from ipadapter_demo.ui.run import reuse
from ipadapter_demo.ui.run.labels import labelled
from ipadapter_demo.ui.run.say import escaped
from ipadapter_demo.ui.run.tab import BuiltTab, Update, Widgets
from ipadapter_demo.ui.run.uploads import path_of_upload
from ipadapter_demo.ui.widgets.access import alts, picture_text
from ipadapter_demo.ui.widgets.attention import Shown, attention_html
from ipadapter_demo.ui.widgets.scrubber import scrubber_html

PREVIEW = "image"  # as gradio calls the file of a picture that comes without one
LOOK_AGAIN = 0.5  # seconds: as long as somebody waits, what is said may be this old
AS_USUAL: dict[str, Any] = {"columns": 2, "allow_preview": True}  # of a gallery; others differ
QUIET = 0.4  # seconds: each message keeps a browser without a GPU busy for a twentieth of one
PREVIEWS = 6  # a run shows at most as many; each costs a decoding


def updates(
    built: BuiltTab,
    pipeline: ImagePromptPipeline,
    request: GenerateRequest,
    record_attention: bool,
    turn: Turn,
    preview: bool = True,
    most_seconds: float | None = None,
) -> Iterator[Update]:
    """The pictures of a request as they come, `preview` also before they are finished. `turn`
    learns how far it is."""
    shown = built.results
    yield {
        shown.gallery: gr.Gallery(**AS_USUAL),
        shown.scrubber: "",
        shown.attention_maps: "",
        shown.status: progress(0, steps_taken(request)),
        built.inputs["seed"]: request.seed,
    }
    # Stop closes this generator, and with it the stream, so that the model stops between two steps.
    # Whoever leaves is missed when something is said: so it is said again while others come first.
    with closing(
        pipeline.stream(
            request, preview_every(request, preview), record_attention, LOOK_AGAIN, most_seconds
        )
    ) as events:
        due = now_and_then()
        for event in events:
            if isinstance(event, Preview):
                turn.share, turn.seconds = event.step / event.steps, event.seconds
                pictures = {shown.gallery: list(event.images)} if event.images else {}
                if due() or pictures:
                    yield pictures | {shown.status: so_far(turn, event.step, event.steps)}
            else:
                paths = saved(event)
                yield {
                    shown.gallery: paths,
                    shown.status: summary(event, built.inputs)
                    + alts(paths, (picture_text(event.request, seed) for seed in event.seeds)),
                    built.inputs["seed"]: event.seeds[0],
                    shown.attention_maps: attention_of(event),
                    **({} if shown.comparison is None else {shown.comparison: compared(event)}),
                }


def strip_updates(
    built: BuiltTab,
    pipeline: ImagePromptPipeline,
    request: GenerateRequest,
    record_attention: bool,
    turn: Turn,
    preview: bool = True,
    most_seconds: float | None = None,
) -> Iterator[Update]:
    """The same request at several λ, each result as it comes."""
    shown = built.results
    pictures: list[tuple[str, str]] = []
    maps: list[Shown] = []
    warnings: dict[str, None] = {}  # of all, each once
    notes = ""
    requests = filmstrip(request)
    number, seconds, all_of = 0, 0.0, len(requests)
    scales = [one.image_scale for one in requests]
    yield {built.inputs["seed"]: requests[0].seed, shown.status: so_far(turn, 0, all_of, "picture")}
    with closing(
        pipeline.outcomes(
            requests,
            record_attention=record_attention,
            look_again=LOOK_AGAIN,
            most_seconds=most_seconds and most_seconds / all_of,
        )
    ) as events:
        due = now_and_then()
        for event in events:
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Preview):
                turn.share = (number + event.step / event.steps) / all_of
                turn.seconds = seconds + event.seconds
                if due():
                    yield {shown.status: so_far(turn, number, all_of, "picture") + notes}
                continue
            warnings |= dict.fromkeys(event.warnings)
            notes = notes_of(warnings, built.inputs)
            label = f"λ {scales[number]:g}"
            pictures += [(path, label) for path in saved(event)]
            maps += [(event.images[0], label, tiles) for tiles in event.attention_tiles]
            number, seconds = number + 1, turn.seconds
            yield {
                shown.gallery: gr.Gallery(list(pictures), allow_preview=False),
                shown.scrubber: scrubber_html([p for p, _ in pictures], requests, number - 1),
                shown.status: so_far(turn, number, all_of, "picture") + notes,
            }
    turn.share = 1.0
    nearest = min(range(all_of), key=lambda n: abs(scales[n] - request.image_scale))
    yield {
        shown.gallery: pictures,
        shown.scrubber: scrubber_html([p for p, _ in pictures], requests, nearest),
        shown.status: f"λ from {scales[0]:g} to {scales[-1]:g}, seed {request.seed}: "
        f"move along the slider.{notes}"
        + alts((path for path, _ in pictures), (picture_text(r, r.seed) for r in requests)),
        shown.attention_maps: attention_html(maps),
    }


def preview_every(request: GenerateRequest, preview: bool = True) -> int:
    """Number of steps after which a picture is shown; 0 for none."""
    return math.ceil(steps_taken(request) / PREVIEWS) if preview else 0


def notes_of(warnings: Iterable[str], inputs: Widgets) -> str:
    """What a status says of a request after all else, for as long as it stands; fields by the
    labels of `inputs`."""
    return "".join(f"<br>{escaped(labelled(note, inputs))}" for note in warnings)


def attention_of(result: Result) -> str:
    return attention_html(
        [
            (image, f"picture {number}, seed {seed}", tiles)
            for number, (image, seed, tiles) in enumerate(
                zip(result.images, result.seeds, result.attention_tiles, strict=False), 1
            )
        ]
    )


def saved(result: Result) -> list[str]:
    """Paths. gradio's cache serves the files as they are and deletes them in time."""
    folder = Path(get_upload_folder()) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    recording, paths = Recording(result.request, result.provenance), []
    for index, (image, seed) in enumerate(zip(result.images, result.seeds, strict=True)):
        path = folder / f"ip-adapter-{seed}.png"
        recording.save(path, image, seed, index)
        paths.append(str(path))
    return paths


def compared(result: Result) -> tuple[Image.Image, Image.Image] | None:
    given = result.request.inpaint
    return (given.image, result.images[0]) if given else None


def summary(result: Result, inputs: Widgets) -> str:
    return f"{made(result)} Settings are saved inside each PNG.{notes_of(result.warnings, inputs)}"


def made(result: Result) -> str:
    first, last = result.seeds[0], result.seeds[-1]
    if first == last:
        return f"1 picture in {result.seconds:.1f} s, seed {first}."
    return f"{len(result.seeds)} pictures in {result.seconds:.1f} s, seeds {first} to {last}."


def now_and_then() -> Callable[[], bool]:
    """A function that is true at its first call, and then where it was not for `QUIET` seconds."""
    last = -math.inf

    def due() -> bool:
        nonlocal last
        now = time.monotonic()
        if now - last < QUIET:
            return False
        last = now
        return True

    return due


def waited(turn: Turn) -> Iterator[str]:
    """Status texts while the visitor waits for a turn; the same again, where nothing changed: who
    has left is missed then."""
    while not turn.begun:
        yield waiting(turn.ahead, turn.expected)
        turn.wait(LOOK_AGAIN)


def waiting(ahead: int, seconds: float | None) -> str:
    when = "it is not known how long" if seconds is None else f"about {lasting(seconds)}"
    return f"Waiting: place {ahead} in line, {when}."


def so_far(turn: Turn, step: int, steps: int, what: str = "step") -> str:
    """The status of a turn that is at work, or lets others by."""
    ahead = turn.ahead
    if ahead == 0:
        left = turn.left if step else None
        return progress(step, steps, what) + (f", about {lasting(left)} left" if left else "")
    said = waiting(ahead, turn.expected)
    return f"{progress(step, steps, what)}. {said}" if step else said


def lasting(seconds: float) -> str:
    minutes, rest = divmod(max(1, round(seconds)), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def loading(model: str) -> str:
    return f"{escaped(model)} is loaded first."


def progress(step: int, steps: int, what: str = "step") -> str:
    words = f"{what} {step} of {steps}" if step else "starting"
    return f'<progress value="{step}" max="{steps}"></progress> {words}'


def lines_of(
    gallery: Any,  # noqa: ANN401 - the raw value of a gallery
    event: gr.EventData,
) -> tuple[str, str]:
    """Command and Python of the result that was clicked, or of the first; nothing where a run was
    stopped, and only its last preview is there."""
    number = event._data.get("index") if isinstance(event._data, Mapping) else None
    results = gallery if isinstance(gallery, list) else []
    number = number if isinstance(number, int) and 0 <= number < len(results) else 0
    if not results or not isinstance(results[number], Mapping):
        return "", ""
    try:
        path = path_of_upload(results[number].get("image"), "result")
        provenance = record_at(path).provenance
    except RequestError:
        return "", ""
    if not all(isinstance(provenance.get(option), str) for option in reuse.OPTIONS):
        return "", ""
    return reuse.command(path.name, provenance), reuse.python(path.name, provenance)
