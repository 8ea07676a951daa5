"""A picture that goes on beyond its edges: what was there stays as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipadapter_demo as ip
from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.record import request_from_json, request_to_json
from ipadapter_demo.request import GenerateRequest, Reference
from tests.tiny import box_mask, picture


def test_the_canvas_repeats_the_edge_and_what_is_new_is_the_mask() -> None:
    given = ip.outpaint(picture(4), left=3, top=2, right=1, bottom=5, feather=4)
    assert given.image.size == given.mask.size == (68, 71)
    assert given.feather == 4
    pixels, mask = np.asarray(given.image), np.asarray(given.mask)
    assert (pixels[2:66, 3:67] == np.asarray(picture(4))).all()
    assert (pixels[:2, 3:67] == pixels[2, 3:67]).all()
    assert (pixels[2:66, :3] == pixels[2:66, 3:4]).all()
    assert (mask[2:66, 3:67] == 0).all()
    assert (mask == 255).sum() == 68 * 71 - 64 * 64


def test_a_mask_beside_it_is_drawn_too() -> None:
    given = ip.outpaint(picture(4), top=8, mask=box_mask((8, 8, 40, 40)))
    assert given.mask.crop((0, 8, 64, 72)).tobytes() == box_mask((8, 8, 40, 40)).tobytes()
    assert given.mask.crop((0, 0, 64, 8)).getextrema() == (255, 255)


@pytest.mark.parametrize("context", [1.0, 0.3])
def test_law_7_of_the_picture_no_pixel_changes(
    pipeline: ImagePromptPipeline, context: float
) -> None:
    """And what is drawn beyond it depends on the reference."""
    given = ip.outpaint(picture(4), right=32, top=16, context=context)
    made = []
    for seed in (1, 2):
        asked = GenerateRequest(
            inpaint=given, references=(Reference(image=picture(seed)),), guidance=2.0, steps=2
        )
        assert request_from_json(request_to_json(asked)) == asked
        [image] = pipeline.generate(asked).images
        assert image.size == (96, 80)
        assert image.crop((0, 16, 64, 80)).tobytes() == picture(4).tobytes()
        made.append(image)
    assert made[0].tobytes() != made[1].tobytes()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({}, "extend must be above 0 on one side, got 0 on all four"),
        ({"left": -1}, r"extend\.left must be from 0 to 1024, got -1"),
        ({"bottom": 1025}, r"extend\.bottom must be from 0 to 1024, got 1025"),
        ({"top": 1.5}, r"extend\.top must be a whole number, got 1\.5"),
        (
            {"top": 1, "mask": box_mask((0, 0, 8, 8), 32, 32)},
            r"inpaint\.mask must have the size of inpaint\.image, 64x64, got 32x32",
        ),
        ({"top": 1, "strength": 0}, r"inpaint\.strength must be above 0 and at most 1"),
    ],
)
def test_what_cannot_be_is_said(how: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        ip.outpaint(picture(4), **how)


def test_a_canvas_that_no_record_could_hold() -> None:
    with pytest.raises(RequestError, match="extend must lead to at most 50,000,000 pixels"):
        ip.outpaint(Image.new("RGB", (7000, 7000)), right=1024)
