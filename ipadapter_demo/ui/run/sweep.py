"""The sweep of λ for programs: one request at several strengths of its image prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

from ipadapter_demo import checks
from ipadapter_demo.compare.strip import SCALES, filmstrip
from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline import ImagePromptPipeline, Preview
from ipadapter_demo.request import MAX_IMAGE_SCALE, GenerateRequest
from ipadapter_demo.serving import ModelManager, Turn
from ipadapter_demo.ui.run.api import File, file_of, public
from ipadapter_demo.ui.run.api_fields import answer, parameter, parameters, picture_schema
from ipadapter_demo.ui.run.errors import shown_errors
from ipadapter_demo.ui.run.running import QUEUE, drawn
from ipadapter_demo.ui.run.tab import BuiltTab
from ipadapter_demo.ui.run.updates import LOOK_AGAIN, saved

MOST = 32  # values of λ
NUMBERS = {"type": "array", "items": {"type": "number"}}
OF_ONE = {"image_scale": 1.0, "count": 1, "attention": False}  # what a sweep leaves no choice in


class Swept(NamedTuple):
    """The values that the endpoint returns, in this order; the first two belong together."""

    pictures: list[File]
    scales: list[float]
    seed: int | None
    status: str


def add_sweep(manager: ModelManager, built: BuiltTab) -> None:
    """`/sweep` draws what the sweep of λ on this tab draws, at any λ."""

    def sweep(scales: Any, **values: Any) -> Iterator[Swept]:  # noqa: ANN401 - a program's
        """One picture at several λ, all from the same noise: how much the reference counts beside
        the text. The settings are saved inside each PNG."""
        seed = values["seed"]
        asked = values | {"random_seed": seed is None, "seed": seed or 0} | OF_ONE
        with shown_errors():
            film = partial(filmstrip, scales=checked(scales))
            answers = partial(_answers, film)
            yield from drawn(manager, built, asked, answers, at_work, film)

    inputs = {name: one for name, one in built.inputs.items() if name not in OF_ONE}
    text = f"The values of λ, from 0 to {MAX_IMAGE_SCALE:g}, at most {MOST}."
    public(
        sweep,
        {"scales": parameter("scales", text, NUMBERS, list(SCALES)), **parameters(inputs)},
        [
            answer({"type": "array", "items": picture_schema()}, "pictures"),
            answer(NUMBERS, "scales"),
            answer({"type": "integer"}, "seed"),
            answer({"type": "string"}, "status"),
        ],
        **QUEUE,
    )


def checked(scales: object) -> list[float]:
    """Raises RequestError."""
    if not isinstance(scales, list) or not 1 <= len(scales) <= MOST:
        got = len(scales) if isinstance(scales, list) else repr(scales)[:80]
        raise RequestError(f"scales must be a list of 1 to {MOST} numbers, got {got}")
    return [checks.number("scales", scale, 0.0, MAX_IMAGE_SCALE) for scale in scales]


def at_work(status: str) -> Swept:
    """Before there are pictures."""
    return Swept([], [], None, status)


def _answers(
    film: partial[list[GenerateRequest]],
    built: BuiltTab,
    pipeline: ImagePromptPipeline,
    request: GenerateRequest,
    record_attention: bool,
    turn: Turn,
    preview: bool,
    most_seconds: float | None = None,
) -> Iterator[Swept]:
    """The pictures so far, after each and between them. `turn` learns how far it is."""
    requests, seconds = film(request), 0.0
    pictures: list[File] = []
    share = most_seconds and most_seconds / len(requests)
    scales = [one.image_scale for one in requests]
    work = pipeline.outcomes(requests, look_again=LOOK_AGAIN, most_seconds=share)
    with closing(work) as events:
        for event in events:
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Preview):
                turn.share = (len(pictures) + event.step / event.steps) / len(requests)
                turn.seconds = seconds + event.seconds
            else:
                pictures += [file_of(path) for path in saved(event)]
                seconds = turn.seconds
            said = f"{len(pictures)} of {len(requests)} pictures."
            yield Swept(list(pictures), scales[: len(pictures)], request.seed, said)
    turn.share = 1.0
