"""What a comparison is said to cost is what it takes."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import pytest

from ipadapter_demo.compare import Pace, Plan, spec_from_document
from ipadapter_demo.compare.cost import Cost, Speed, kind_of, measured
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.pipeline import ImagePromptPipeline, prepare
from ipadapter_demo.pipeline.step_count import unet_calls
from ipadapter_demo.request import GenerateRequest, Inpaint, Reference, Structure
from ipadapter_demo.serving import ModelManager
from tests.tiny import box_mask, picture

SEVERAL = {"columns": {"seed": [0, 1, 2]}, "request": {"prompt": "a", "steps": 20, "guidance": 3}}
GIVEN = Inpaint(image=picture(1), mask=box_mask((8, 8, 40, 40)))


def read(name: str) -> bytes:
    content = io.BytesIO()
    (GIVEN.mask if name == "m.png" else GIVEN.image).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def manager(entry: CatalogEntry, pipeline: ImagePromptPipeline) -> ModelManager:
    return ModelManager(
        pipeline, lambda name, report: prepare(replace(entry, name=name)), {"other": "other"}
    )


def cost(pace: Pace, manager: ModelManager, **request: Any) -> Cost:
    document = SEVERAL | {"request": SEVERAL["request"] | request}  # type: ignore[operator]
    return pace.cost(Plan(spec_from_document(document, read), manager))


def test_every_pass_and_only_what_is_left_of_the_steps_counts(manager: ModelManager) -> None:
    pace = Pace()
    inpaint = {"image": "a.png", "mask": "m.png"}
    twenty, forty = (cost(pace, manager, inpaint=inpaint, steps=steps) for steps in (20, 40))
    call = (forty.seconds - twenty.seconds) / (3 * 20)
    assert call > 0
    careful = cost(pace, manager, inpaint=inpaint | {"repaint_passes": 4})
    assert careful.seconds - twenty.seconds == pytest.approx(3 * (19 * 4 + 1 - 20) * call)
    half = cost(pace, manager, inpaint=inpaint | {"strength": 0.5})
    assert (half.steps, twenty.steps) == (30, 60)
    assert twenty.seconds - half.seconds == pytest.approx(3 * 10 * call)


def test_a_second_pass_is_measured_at_its_size(manager: ModelManager) -> None:
    pace = Pace()
    one, two = (cost(pace, manager, **more) for more in ({}, {"upscale": {"strength": 0.5}}))
    assert (one.steps, two.steps) == (60, 90)
    assert two.seconds > one.seconds
    sizes = {key[2] for key in pace._known._entries}  # type: ignore[index]
    assert sizes == {(64, 64), (128, 128)}


def test_steps_without_guidance_are_measured_as_such(manager: ModelManager) -> None:
    """A window makes a request of both kinds of step, and none but those that it has is drawn."""
    pace = Pace()

    def twenty_more(**fields: Any) -> float:
        return (
            cost(pace, manager, steps=40, **fields).seconds
            - cost(pace, manager, steps=20, **fields).seconds
        )

    guided, plain, half = (
        twenty_more(**fields) for fields in ({}, {"guidance": 1}, {"guidance_window": [0, 0.5]})
    )
    assert guided != plain, "two measurements"
    assert half == pytest.approx((guided + plain) / 2)
    never = cost(pace, manager, guidance_window=[0.51, 0.54])
    assert never.seconds == pytest.approx(cost(pace, manager, guidance=1).seconds)


def test_what_makes_a_step_slower_is_measured_by_itself() -> None:
    plain = GenerateRequest(references=(Reference(image=picture(1)),))
    assert kind_of(plain) == kind_of(
        replace(
            plain,
            prompt="a",
            steps=50,
            seed=3,
            image_scale=0.5,
            references=(Reference(image=picture(2), weight=0.5),),
        )
    )
    slower = [
        replace(plain, count=4),
        replace(plain, inpaint=GIVEN),
        replace(plain, image_scale=0.0),
        replace(plain, guidance=1.0),
        replace(plain, references=plain.references * 2),
        replace(plain, structures=(Structure(kind="canny", image=picture(1)),)),
    ]
    assert len({kind_of(request) for request in [plain, *slower]}) == 7


def test_more_pictures_take_longer(pipeline: ImagePromptPipeline) -> None:
    one = GenerateRequest(prompt="a", width=128, height=128)
    pipeline.generate(replace(one, steps=2))
    assert any(
        measured(pipeline, replace(one, count=16)).call > 2 * measured(pipeline, one).call
        for _ in range(5)
    ), "on a busy machine not every time"


def test_it_is_about_what_a_request_takes(pipeline: ImagePromptPipeline) -> None:
    request = GenerateRequest(
        inpaint=replace(GIVEN, repaint_passes=4),
        steps=20,
        guidance=3.0,
        references=(Reference(image=picture(1)),),
        width=128,
        height=128,
    )
    pipeline.generate(replace(request, steps=2))

    def said() -> float:
        speed = measured(pipeline, request)
        return unet_calls(request) * speed.call + speed.finish

    assert any(0.6 < said() / pipeline.generate(request).seconds < 1.4 for _ in range(5)), (
        "on a busy machine not every time"
    )


def test_a_visitor_with_another_model_changes_nothing(manager: ModelManager) -> None:
    """What was measured of a model stays; one that is not loaded is not estimated by another."""
    pace = Pace()
    before = cost(pace, manager)
    own = Plan(spec_from_document(SEVERAL, read), manager)
    manager.with_model("other")
    assert pace.cost(own) == Cost(3, 60, 0, unknown=3)
    assert str(pace.cost(own)) == "3 cells, 60 steps: how long is known once the model is loaded"
    assert pace.cost(Plan(spec_from_document(SEVERAL, read), manager)).unknown == 0
    manager.with_model("tiny")
    assert pace.cost(own) == before


def test_of_two_models_the_one_that_is_loaded_is_estimated(manager: ModelManager) -> None:
    both = SEVERAL | {"rows": {"model": ["tiny", "other"]}}
    found = Pace().cost(Plan(spec_from_document(both, read), manager))
    assert (found.cells, found.unknown) == (6, 3)
    assert found.seconds > 0
    assert str(found).endswith("s, and 3 of a model that is not loaded")


def test_cells_that_cannot_be_drawn_are_told_and_the_others_measured(manager: ModelManager) -> None:
    """Wherever they stand: none of them keeps the others from being drawn."""
    request = {"request": {"prompt": "a", "steps": 4, "guidance": 3}}
    typo = "lora must be one of "
    for loras in (["typo", "none"], ["none", "typo"]):
        plan = Plan(spec_from_document({"columns": {"loras": loras}} | request, read), manager)
        found = Pace().cost(plan)
        assert found.seconds > 0
        assert found.refused in (0, 1)  # the kinds of both are alike, and the first one is measured
        assert typo in found.why or not found.refused
    both = {"columns": {"loras": ["typo"]}} | request
    assert re.fullmatch(
        r"1 cell, 4 steps, of which 1 cannot be drawn \(lora must be .*\)",
        str(Pace().cost(Plan(spec_from_document(both, read), manager))),
    )


def test_how_it_is_said() -> None:
    assert str(Cost(1, 20, 0.2)) == "1 cell, 20 steps: about 1 s"
    assert str(Cost(400, 8000, 3725)) == "400 cells, 8,000 steps: about 62 min 5 s"
    assert Speed(1.0, 2.0).finish == 2.0
