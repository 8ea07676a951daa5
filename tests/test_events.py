"""What a model recommends: λ by what stands beside a reference, guidance by what is replaced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ipadapter_demo.models.recommended import Recommended
from ipadapter_demo.pipeline.events import ModelInfo

INFO = ModelInfo(
    name="m",
    native_size=64,
    recommended=Recommended(
        image_scale=1.0,
        text_image_scale=0.6,
        map_image_scale=0.8,
        guidance=6.0,
        steps=9,
        text_steps=11,
        paint_guidance=3.0,
        repaint_passes=4,
        context=0.5,
        background_weight=0.7,
    ),
    adapters=("base",),
    structures={"canny": ("canny", "lineart", "none")},
    loras={},
    layer_presets={},
    words=(),
    note="",
)


@pytest.mark.parametrize(
    ("given", "scale", "steps"),
    [
        ({}, 1.0, 9),
        ({"prompt": ""}, 1.0, 9),
        ({"prompt": "a cube"}, 0.6, 11),
        ({"structures": ("s",)}, 0.8, 9),
        ({"structures": ()}, 1.0, 9),
        ({"prompt": "a cube", "structures": ("s",)}, 0.6, 11),
    ],
)
def test_image_scale_and_steps_follow_what_stands_beside_the_reference(
    given: dict[str, Any], scale: float, steps: int
) -> None:
    assert INFO.recommended.fields_beside(given) == {
        "guidance": 6.0,
        "guidance_window": (0.0, 1.0),
        "steps": steps,
        "image_scale": scale,
        "sampler": "dpm++",
        "noise_schedule": "default",
    }


def test_image_scale_for_a_picture_alone_is_the_default() -> None:
    assert INFO.recommended.scale_for() == 1.0
    assert INFO.recommended.scale_for(prompt=True) == 0.6
    assert INFO.recommended.scale_for(maps=True) == 0.8


def test_a_prompt_takes_as_many_steps_where_no_other_number_is_recommended() -> None:
    assert replace(INFO.recommended, text_steps=None).steps_for(prompt=True) == 9


def test_inpainting_without_a_prompt_has_steps_of_its_own() -> None:
    own = replace(INFO.recommended, paint_steps=5)
    assert own.fields_beside({"inpaint": "given"})["steps"] == 5
    assert own.fields_beside({"inpaint": "given", "prompt": "a cube"})["steps"] == 11
    assert (
        own.fields_beside({})["steps"] == INFO.recommended.fields_beside({"inpaint": "x"})["steps"]
    )
    assert own.steps_for(prompt=False, inpainting=True) == 5


def test_inpainting_has_a_window_of_guidance_of_its_own() -> None:
    windowed = replace(INFO.recommended, guidance_window=(0.2, 0.8))
    assert windowed.fields_beside({})["guidance_window"] == (0.2, 0.8)
    assert windowed.fields_beside({"inpaint": "given"})["guidance_window"] == (0.0, 1.0)
    own = replace(windowed, paint_guidance_window=(0.0, 0.9))
    assert own.guidance_window_for(inpainting=True) == (0.0, 0.9)


def test_inpainting_has_a_guidance_of_its_own() -> None:
    assert INFO.recommended.fields_beside({"inpaint": "given"}) == {
        "guidance": 3.0,
        "guidance_window": (0.0, 1.0),
        "steps": 9,
        "image_scale": 1.0,
        "sampler": "ddim",
        "noise_schedule": "default",
    }
    assert replace(INFO.recommended, repaint_passes=1).sampler_for(True) == "dpm++"
    assert INFO.recommended.fields_beside({"inpaint": None})["guidance"] == 6.0
    assert INFO.recommended.inpainting == {
        "repaint_passes": 4,
        "context": 0.5,
        "background_weight": 0.7,
    }


def test_the_usual_annotator_is_the_first_that_is_offered() -> None:
    assert INFO.usual_annotator("canny") == "canny"
    assert INFO.usual_annotator("depth") == "none"
