"""Updates of the page during a run: pictures, progress, and how to make them again."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from ipadapter_demo.compare.strip import filmstrip
from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import tinted
from ipadapter_demo.pipeline import ImagePromptPipeline, Preview, Result
from ipadapter_demo.record import record_from_png, save_png
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.serving import Turn
from ipadapter_demo.ui.run import reuse
from ipadapter_demo.ui.run.say import escaped, inform
from ipadapter_demo.ui.run.tab import BuiltTab, Update
from ipadapter_demo.ui.run.uploads import path_of_upload

LOOK_AGAIN = 0.5  # seconds: as long as somebody waits, what is said may be this old
PREVIEWS = 6  # a run shows at most as many; each costs a decoding


def updates(
    built: BuiltTab,
    pipeline: ImagePromptPipeline,
    request: GenerateRequest,
    record_attention: bool,
    turn: Turn,
    preview: bool = True,
) -> Iterator[Update]:
    """The pictures of a request as they come, `preview` also before they are finished. `turn`
    learns how far it is."""
    shown = built.results
    yield {
        shown.gallery: gr.Gallery(columns=2),
        shown.status: progress(0, request.steps),
        built.inputs["seed"]: request.seed,
    }
    every = math.ceil(request.steps / PREVIEWS) if preview else 0
    # Stop closes this generator, and with it the stream, so that the model stops between two steps
    with closing(
        pipeline.stream(request, preview_every=every, record_attention=record_attention)
    ) as events:
        for event in events:
            if isinstance(event, Preview):
                turn.share = event.step / event.steps
                pictures = {shown.gallery: list(event.images)} if event.images else {}
                yield pictures | {shown.status: progress(event.step, event.steps)}
            else:
                tell(event.warnings)
                yield {
                    shown.gallery: saved(event),
                    shown.status: summary(event),
                    built.inputs["seed"]: event.seeds[0],
                    shown.attention_maps: attention_gallery(event),
                    **({} if shown.comparison is None else {shown.comparison: compared(event)}),
                }


def strip_updates(
    built: BuiltTab,
    pipeline: ImagePromptPipeline,
    request: GenerateRequest,
    record_attention: bool,
    turn: Turn,
    preview: bool = True,
) -> Iterator[Update]:
    """The same request at several λ, each result as it comes."""
    shown = built.results
    pictures: list[tuple[str, str]] = []
    maps: list[tuple[Image.Image, str]] = []
    requests = filmstrip(request)
    with closing(pipeline.generate_all(requests, record_attention=record_attention)) as results:
        for number, one in enumerate(requests):
            turn.share = number / len(requests)
            yield {
                shown.gallery: gr.Gallery(list(pictures), columns=len(requests) // 2 + 1),
                shown.status: progress(number, len(requests), "picture"),
                built.inputs["seed"]: one.seed,
            }
            result = next(results)
            if number == 0:
                tell(result.warnings)
            label = f"λ = {one.image_scale:g}"
            pictures += [(path, label) for path in saved(result)]
            maps += [
                (tinted(result.images[0], amount), label)
                for amount in (result.attention_maps[0] if result.attention_maps else ())
            ]
    first, last = requests[0].image_scale, requests[-1].image_scale
    turn.share = 1.0
    yield {
        shown.gallery: pictures,
        shown.status: f"λ from {first:g} to {last:g}, seed {request.seed}.",
        shown.attention_maps: gr.Gallery(maps, visible=bool(maps)),
    }


def tell(warnings: Sequence[str]) -> None:
    for note in warnings:
        inform(note)


def attention_gallery(result: Result) -> gr.Gallery:
    """Every picture once for each reference, bright where that acted."""
    shown = [
        (tinted(image, amount), f"picture {number}, seed {seed}")
        for image, seed, amounts in zip(
            result.images, result.seeds, result.attention_maps, strict=False
        )
        for number, amount in enumerate(amounts, 1)
    ]
    return gr.Gallery(shown, visible=bool(shown))


def saved(result: Result) -> list[str]:
    """Paths. gradio's cache serves the files as they are and deletes them in time."""
    folder = Path(get_upload_folder()) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    paths = []
    for index, (image, seed) in enumerate(zip(result.images, result.seeds, strict=True)):
        path = folder / f"ip-adapter-{seed}.png"
        save_png(path, image, result.request, seed, index, result.provenance)
        paths.append(str(path))
    return paths


def compared(result: Result) -> tuple[Image.Image, Image.Image] | None:
    given = result.request.inpaint
    return (given.image, result.images[0]) if given else None


def summary(result: Result) -> str:
    first, last = result.seeds[0], result.seeds[-1]
    if first == last:
        made = f"1 picture in {result.seconds:.1f} s, seed {first}."
    else:
        made = f"{len(result.seeds)} pictures in {result.seconds:.1f} s, seeds {first} to {last}."
    warnings = "".join(f"<br>{escaped(note)}" for note in result.warnings)
    return f"{made} Each PNG holds its request.{warnings}"


def waited(turn: Turn) -> Iterator[str]:
    """Status texts while the visitor waits for a turn."""
    said = ""
    while ahead := turn.ahead:
        if (now := waiting(ahead, turn.expected)) != said:
            yield (said := now)
        turn.wait(LOOK_AGAIN)


def waiting(ahead: int, seconds: float | None) -> str:
    when = "it is not known how long" if seconds is None else f"about {lasting(seconds)}"
    return f"Waiting: place {ahead} in line, {when}."


def lasting(seconds: float) -> str:
    minutes, rest = divmod(max(1, round(seconds)), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def loading(model: str) -> str:
    return f"{progress(0, 1)}: {escaped(model)} is loaded first."


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
        provenance = record_from_png(path).provenance
    except RequestError:
        return "", ""
    if not all(isinstance(provenance.get(option), str) for option in reuse.OPTIONS):
        return "", ""
    return reuse.command(path.name, provenance), reuse.python(path.name, provenance)
