"""Two passes: a picture that is drawn, enlarged and drawn again is what two requests give."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from torch.nn.functional import interpolate

from ipadapter_demo.errors import RequestError
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.pipeline import ImagePromptPipeline, Preview, Result, load
from ipadapter_demo.pipeline.passes import passes_of
from ipadapter_demo.pipeline.step_count import guided_calls, steps_taken, unet_calls
from ipadapter_demo.record import request_from_json, request_from_png, request_to_json, save_png
from ipadapter_demo.request import GenerateRequest, Inpaint, Reference, Structure
from ipadapter_demo.size_limits import MAX_AREA
from ipadapter_demo.upscale import ENLARGES, Enlarge, Upscale
from tests.oracle import assert_same, loaded, pixels_of, reference, request, theirs
from tests.test_oracle_sdxl import loaded_xl
from tests.test_sharing import gated
from tests.tiny import box_mask, picture, write_tiny_sdxl

UP = Upscale(factor=1.5, strength=0.6)
PLAIN = GenerateRequest(
    prompt="a cube",
    references=(Reference(image=picture(1), window=(0.0, 0.75)),),
    structures=(Structure(kind="canny", image=picture(3), annotator="canny", weight=0.6),),
    guidance=2.0,
    steps=4,
    seed=5,
)


# What is drawn


@pytest.mark.parametrize("sampler", ["dpm++", "pndm", "heun", "euler_a"])
def test_two_passes_are_two_requests(pipeline: ImagePromptPipeline, sampler: Any) -> None:
    """To the byte: the second begins from the first one's picture, with the same seed."""
    asked = replace(PLAIN, sampler=sampler, upscale=UP)
    [whole] = pipeline.generate(asked).images
    [first] = pipeline.generate(replace(asked, upscale=None)).images
    assert first.size == (64, 64)
    second = replace(asked, upscale=None, init_image=first, strength=0.6, width=96, height=96)
    [expected] = pipeline.generate(second).images
    assert whole.size == (96, 96)
    assert whole.tobytes() == expected.tobytes()


def test_the_first_pass_may_begin_from_a_picture(pipeline: ImagePromptPipeline) -> None:
    asked = replace(PLAIN, init_image=picture(4, 96, 64), strength=0.5, upscale=UP)
    [first] = pipeline.generate(replace(asked, upscale=None)).images
    width, height = UP.size_of(first.size)
    second = replace(asked, upscale=None, init_image=first, strength=0.6, width=width)
    [expected] = pipeline.generate(replace(second, height=height)).images
    [whole] = pipeline.generate(asked).images
    assert whole.tobytes() == expected.tobytes()


@pytest.mark.parametrize("enlarge", ENLARGES)
@pytest.mark.parametrize("xl", [False, True])
def test_equal_to_diffusers(
    entry: CatalogEntry,
    xl: bool,
    enlarge: Enlarge,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Text to image, followed by image to image, with the image prompt in both."""
    if xl:
        entry = write_tiny_sdxl(tmp_path_factory.mktemp("models") / "tiny-xl")
    load_ = loaded_xl if xl else loaded
    kinds = (
        (StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline)
        if xl
        else (StableDiffusionPipeline, StableDiffusionImg2ImgPipeline)
    )
    pipeline = load(entry)
    asked = request(
        references=(reference(),), image_scale=0.7, upscale=replace(UP, enlarge=enlarge)
    )
    given: dict[str, Any] = {"scale": 0.7, "ip_adapter_image": reference().image}
    if enlarge == "latents":
        latents = theirs(load_(kinds[0], entry), entry, **given, output_type="latent")
        begin: Any = interpolate(latents, scale_factor=1.5, mode="bilinear")
    else:
        first = pipeline.generate(replace(asked, upscale=None)).images
        begin = [image.resize((96, 96), 3) for image in first]  # bicubic
        given |= {"prompt": ["a cube"] * len(begin), "negative_prompt": ["blur"] * len(begin)}
        given |= {"num_images_per_prompt": 1, "ip_adapter_image": [reference().image]}
    expected = theirs(load_(kinds[1], entry), entry, **given, image=begin, strength=0.6)
    assert expected.shape[-2:] == (96, 96)
    assert_same(pixels_of(pipeline, monkeypatch)(asked), expected)


@pytest.mark.parametrize("enlarge", ENLARGES)
def test_law_1_at_0_it_is_the_base_model(pipeline: ImagePromptPipeline, enlarge: Enlarge) -> None:
    asked = replace(PLAIN, upscale=replace(UP, enlarge=enlarge))
    [silent] = pipeline.generate(replace(asked, image_scale=0.0)).images
    [without] = pipeline.generate(replace(asked, references=())).images
    [acting] = pipeline.generate(asked).images
    assert silent.tobytes() == without.tobytes()
    assert acting.tobytes() != silent.tobytes()


def test_in_pieces_it_is_the_same(
    pipeline: ImagePromptPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To within a grey level."""
    asked = replace(PLAIN, count=3, upscale=UP)
    whole = list(pipeline.stream(asked, 2))
    monkeypatch.setattr("ipadapter_demo.pipeline.price.PIECE", 4)
    parts = list(pipeline.stream(asked, 2))
    assert (whole[-2].step, parts[-2].step) == (6, 18)  # type: ignore[union-attr]
    for one, other in zip(whole[-1].images, parts[-1].images, strict=True):
        apart = np.abs(np.asarray(one).astype(int) - np.asarray(other))
        assert apart.max() <= 1


# Steps, previews, Stop


def test_steps_and_previews_go_through_both_passes(pipeline: ImagePromptPipeline) -> None:
    *shown, result = pipeline.stream(replace(PLAIN, steps=6, upscale=UP), preview_every=2)
    assert isinstance(result, Result)
    previews = [event for event in shown if isinstance(event, Preview)]
    assert [(event.step, event.steps) for event in previews] == [(i, 9) for i in range(1, 10)]
    sizes = [event.images[0].width if event.images else 0 for event in previews]
    assert sizes == [0, 64, 0, 64, 0, 64, 0, 96, 0]
    assert result.images[0].size == result.maps[0].size == (96, 96)
    assert result.warnings == ()


@pytest.mark.parametrize("stopped", [2, 5])
def test_stopped_in_either_pass_no_further_step_begins(
    pipeline: ImagePromptPipeline, stopped: int
) -> None:
    events = pipeline.stream(replace(PLAIN, upscale=UP))
    with gated(pipeline) as gate:
        gate.open.release(stopped)
        seen = [next(events) for _ in range(stopped)]
        for _ in range(stopped + 1):  # the next one is at work
            assert gate.arrived.acquire(timeout=60)
        events.close()
        gate.open.release(100)
        pipeline._engine.run(lambda: None)
        assert not gate.arrived.acquire(blocking=False)
    assert isinstance(seen[-1], Preview)
    assert seen[-1].step == stopped


def test_recorded_attention_is_that_of_the_second_pass(pipeline: ImagePromptPipeline) -> None:
    *_, result = pipeline.stream(replace(PLAIN, upscale=UP), record_attention=True)
    assert isinstance(result, Result)
    *_, first = pipeline.stream(PLAIN, record_attention=True)
    assert isinstance(first, Result)
    second = replace(PLAIN, init_image=first.images[0], strength=0.6, width=96, height=96)
    *_, alone = pipeline.stream(second, record_attention=True)
    assert isinstance(alone, Result)
    assert result.images == alone.images
    assert result.attention_maps == alone.attention_maps
    assert result.attention_maps != first.attention_maps


@pytest.mark.parametrize("sampler", ["dpm++", "pndm", "heun"])
def test_counts_are_the_sums_of_the_passes(sampler: Any) -> None:
    asked = replace(PLAIN, sampler=sampler, steps=8, guidance_window=(0.0, 0.5), upscale=UP)
    for number in (steps_taken, unet_calls, guided_calls):
        assert number(asked) == sum(number(one) for one in passes_of(asked))


def test_it_is_priced_by_the_sizes_of_its_passes(pipeline: ImagePromptPipeline) -> None:
    asked = replace(PLAIN, upscale=UP)
    first = pipeline.price(replace(asked, upscale=None))
    second = pipeline.price(
        replace(asked, upscale=None, init_image=picture(4), strength=0.6, width=96, height=96)
    )
    price = pipeline.price(asked)
    assert price.total == pytest.approx(first.total + second.total)
    assert price.size == (96, 96)
    assert "upscale.factor 1.5" in str(price)


def test_windows_count_where_one_pass_has_a_step_of_them(pipeline: ImagePromptPipeline) -> None:
    """Of 10 steps the second pass takes 3, none of which lies in the first fifth."""
    asked = replace(PLAIN, steps=10, references=(Reference(image=picture(1), window=(0.0, 0.2)),))
    short = replace(asked, upscale=replace(UP, strength=0.3))
    assert pipeline.generate(short).warnings == ()
    never = replace(short, image_window=(0.01, 0.05))
    [note] = pipeline.generate(never).warnings
    assert note == "image_window: no step of 10 or 3 lies wholly in 0.01 to 0.05."


# Beside others


def test_beside_others_each_gets_its_own(model: BaseModel) -> None:
    """Law 3, where calls are shared: two upscaled ones share both passes, one of one pass only
    what fits it."""
    pipeline, alone = ImagePromptPipeline(model, share_steps=4), ImagePromptPipeline(model)
    asked = [
        replace(PLAIN, upscale=UP),
        replace(PLAIN, seed=9, upscale=replace(UP, enlarge="latents")),
        replace(PLAIN, seed=3),
        replace(PLAIN, seed=4, width=96, height=96, steps=6),
    ]
    found: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: pipeline.generate(asked[i])}))
        for i in range(len(asked))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, one in enumerate(asked):
        [expected], [shared] = alone.generate(one).images, found[i].images
        apart = np.abs(np.asarray(expected).astype(int) - np.asarray(shared))
        assert expected.size == shared.size
        assert apart.max() <= 1


# The field


def test_it_is_recorded_and_restored(pipeline: ImagePromptPipeline) -> None:
    """Law 10. A record from before has no such field."""
    asked = replace(PLAIN, upscale=Upscale(factor=1.5, strength=0.4, enlarge="latents"))
    result = pipeline.generate(asked)
    file = io.BytesIO()
    save_png(file, result.images[0], result.request, 5, 0, result.provenance)
    again = request_from_png(file.getvalue())
    assert again == asked
    assert pipeline.generate(again).images[0].tobytes() == result.images[0].tobytes()
    old = request_to_json(PLAIN)
    del old["request"]["upscale"]  # type: ignore[attr-defined]
    assert request_from_json(old) == PLAIN


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Upscale(factor=1.0), r"upscale\.factor must be above 1 and at most 4, got 1\.0"),
        (lambda: Upscale(factor=5), r"upscale\.factor must be from 1 to 4, got 5"),
        (lambda: Upscale(strength=0), r"upscale\.strength must be above 0 and at most 1, got 0"),
        (lambda: Upscale(enlarge="pixels"), r"upscale\.enlarge must be one of picture, latents"),  # type: ignore[arg-type]
        (lambda: replace(PLAIN, upscale=2.0), "upscale must be an Upscale, got float"),
        (
            lambda: replace(
                PLAIN,
                structures=(),
                upscale=UP,
                inpaint=Inpaint(image=picture(1), mask=box_mask((8, 8, 40, 40))),
            ),
            "upscale and inpaint exclude each other",
        ),
        (
            lambda: replace(PLAIN, width=1024, height=768, upscale=UP),
            r"upscale\.factor 1\.5 makes 1536x1152 pixels of 1024x768, .* it may be 1\.15 at most",
        ),
    ],
)
def test_what_cannot_be_is_said(make: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        make()


def test_too_large_for_a_size_that_was_left_open(pipeline: ImagePromptPipeline) -> None:
    """Before anything is drawn, and where the price is asked for."""
    asked = replace(PLAIN, width=512, structures=(), upscale=Upscale(factor=4))
    assert MAX_AREA > 4 * 512 * 4 * 64
    assert pipeline.price(asked).size == (2048, 512)
    wide = replace(asked, width=1024, height=None, init_image=picture(4))
    with pytest.raises(RequestError, match=r"upscale\.factor 4 makes 4096x4096 pixels"):
        pipeline.price(wide)
    with pytest.raises(RequestError, match=r"upscale\.factor 4 makes 4096x4096 pixels"):
        pipeline.generate(wide)


def test_every_picture_is_enlarged_by_itself(pipeline: ImagePromptPipeline) -> None:
    """Image i of several is that of a request for it alone, to within a grey level."""
    several = pipeline.generate(replace(PLAIN, count=2, upscale=UP)).images
    for i, image in enumerate(several):
        [alone] = pipeline.generate(replace(PLAIN, seed=PLAIN.seed + i, upscale=UP)).images
        assert np.abs(np.asarray(image).astype(int) - np.asarray(alone)).max() <= 1
    assert not torch.equal(*(torch.from_numpy(np.array(image)) for image in several))
