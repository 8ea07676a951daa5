"""Law 14: what a request costs is known before it runs, and its steps are drawn in small pieces."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.pipeline import ImagePromptPipeline, Preview, Result
from ipadapter_demo.pipeline.drawing import Drawing
from ipadapter_demo.pipeline.inpainting.plan import plan_for
from ipadapter_demo.pipeline.price import PIECE, pieces_of, rank_of
from ipadapter_demo.request import GenerateRequest, Inpaint, Reference, Structure
from tests.tiny import box_mask, picture

PLAIN = GenerateRequest(prompt="a", guidance=1.0, steps=10)
REFERENCE = Reference(image=picture(1))
MASKED = Inpaint(image=picture(7), mask=box_mask((8, 8, 40, 40)))


def cost(pipeline: ImagePromptPipeline, preview_every: int = 0, **fields: Any) -> float:
    return pipeline.price(replace(PLAIN, **fields), preview_every).total


def test_the_unit_is_a_call_for_one_picture_at_the_model_s_size(
    pipeline: ImagePromptPipeline,
) -> None:
    """And of decoding three."""
    assert cost(pipeline) == 10 + 3
    assert cost(pipeline, steps=20) == 20 + 3
    assert cost(pipeline, guidance=2.0) == 20 + 3
    assert cost(pipeline, guidance=2.0, guidance_window=(0.0, 0.5)) == 15 + 3
    assert cost(pipeline, count=4) == 4 * 13
    assert cost(pipeline, sampler="heun") == 19 + 3
    assert cost(pipeline, preview_every=2) == 10 + 3 * 5, "of the last step no preview is drawn"
    assert cost(pipeline, width=32) == 13 / 2
    assert cost(pipeline, width=256, height=256) == pytest.approx(13 * 16 * (1 + 15 / 40))


def test_what_else_costs_something_is_counted(pipeline: ImagePromptPipeline) -> None:
    plain = cost(pipeline)
    edges = Structure(kind="canny", image=picture(3), annotator="canny")
    assert cost(pipeline, references=(REFERENCE,)) == plain + 10 * 0.05 + 0.5
    assert cost(pipeline, structures=(edges,)) == plain + 10 * 0.5 + 0.5
    half = replace(edges, window=(0.0, 0.5))
    assert cost(pipeline, structures=(half,)) == plain + 5 * 0.5 + 0.5
    colours = Structure(kind="palette", image=picture(3))
    assert cost(pipeline, structures=(colours,)) == plain + 0.5, "it runs once"
    four = replace(MASKED, repaint_passes=4)
    assert cost(pipeline, inpaint=four) == cost(pipeline, inpaint=MASKED) + 3 * 9


def test_the_greatest_request_costs_a_hundred_thousand_times_a_small_one(
    pipeline: ImagePromptPipeline,
) -> None:
    most = {"count": 16, "steps": 200, "guidance": 2.0, "width": 1024, "height": 1024}
    assert cost(pipeline, **most) > 1e5 * cost(pipeline, steps=10)


def test_a_rank_is_a_factor_of_two() -> None:
    assert [rank_of(price) for price in (0, 1, 1.9, 2, 3.9, 4, 40, 63.9, 64)] == [
        1,
        1,
        1,
        2,
        2,
        3,
        6,
        6,
        7,
    ]


# Pieces


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        ({"count": 16, "guidance": 2.0}, [16]),
        ({"count": 16, "guidance": 2.0, "width": 256, "height": 256}, [1] * 16),
        ({"count": 8, "guidance": 1.0, "width": 256, "height": 256}, [2] * 4),
        ({"count": 16, "guidance": 2.0, "width": 128, "height": 128}, [7, 7, 2]),
    ],
)
def test_a_step_of_large_pictures_is_one_of_few(
    pipeline: ImagePromptPipeline, fields: dict[str, Any], counts: list[int]
) -> None:
    """At the model's own size, all pictures there may be are drawn at once, as ever."""
    request = replace(PLAIN, seed=5, **fields)
    pieces = pieces_of(request, pipeline.working_size(request), pipeline.info.native_size)
    assert [piece.count for piece in pieces] == counts
    assert [seed for piece in pieces for seed in piece.seeds] == list(request.seeds)
    if len(counts) == 1:
        assert pieces[0] is request, "the same bytes"


@pytest.mark.parametrize("painted", [None, MASKED])
def test_pictures_drawn_in_pieces_are_those_of_the_request(
    pipeline: ImagePromptPipeline, monkeypatch: pytest.MonkeyPatch, painted: Inpaint | None
) -> None:
    """To within a grey level, as in shared calls; with what is for one picture alone."""
    request = replace(
        PLAIN,
        guidance=2.0,
        steps=4,
        count=5,
        inpaint=painted,
        references=(
            REFERENCE,
            Reference(image=picture(2), only_image=1),
            Reference(image=picture(6), only_image=4, negative=True),
        ),
    )
    whole = list(pipeline.stream(request, 2, record_attention=True))
    monkeypatch.setattr("ipadapter_demo.pipeline.price.PIECE", 4)
    parts = list(pipeline.stream(request, 2, record_attention=True))
    one, other = whole[-1], parts[-1]
    assert isinstance(one, Result)
    assert isinstance(other, Result)
    assert (one.seeds, one.request, one.warnings) == (other.seeds, other.request, other.warnings)
    for ours, theirs in zip(one.images, other.images, strict=True):
        assert np.abs(np.asarray(ours, np.int16) - np.asarray(theirs, np.int16)).max() <= 1
    assert [len(maps) for maps in one.attention_maps] == [len(m) for m in other.attention_maps]
    steps = [event for event in parts if isinstance(event, Preview)]
    assert [event.step for event in steps] == list(range(1, 13))
    assert {event.steps for event in steps} == {12}
    assert [len(event.images) for event in steps if event.images] == [2, 4, 5]


def test_no_call_of_a_large_request_is_larger_than_a_piece(
    model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = ImagePromptPipeline(model)
    rows: list[int] = []
    hook = model.unet.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    pipeline.generate(replace(PLAIN, guidance=2.0, steps=1, count=9, width=128, height=128))
    hook.remove()
    assert rows == [14, 4]
    assert max(rows) * 4.3 <= PIECE


def test_the_engine_knows_what_a_request_costs(model: BaseModel) -> None:
    pipeline = ImagePromptPipeline(model)
    plan = plan_for(replace(PLAIN, steps=50, count=4), 64)
    drawing = Drawing(model, pipeline._conditioner, plan, maps={}, preview_every=10)
    job = drawing.job(1, background=False, most_seconds=7.0)
    assert job.rank == rank_of(4 * (50 + 3 * 5))
    assert (job.rows, job.most_seconds) == (4, 7.0)
    job.work.close()
