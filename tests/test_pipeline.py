"""The laws of whole pictures, on a tiny model of the real classes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageChops
from torch import nn

from ipadapter_demo.adapter import save_image_adapter
from ipadapter_demo.errors import CheckpointError, ModelError
from ipadapter_demo.imaging import resize_image
from ipadapter_demo.load_options import DTYPES, LoadOptions
from ipadapter_demo.models.base_model import BaseModel, load_base_model
from ipadapter_demo.models.catalog import CATALOG, TABLETOP, CatalogEntry
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.models.sources import no_report
from ipadapter_demo.models.vae import VAE
from ipadapter_demo.pipeline import (
    ImagePromptPipeline,
    Preview,
    Result,
    _entry_named,
    load,
)
from ipadapter_demo.pipeline.drawing import DECODED_AGAIN, decoded
from ipadapter_demo.pipeline.inpainting.background import split_by_mask
from ipadapter_demo.pipeline.inpainting.crop import (
    crop_to_mask,
    drawn_size,
    mask_box,
    uncrop,
    uncrop_preview,
)
from ipadapter_demo.pipeline.inpainting.mask import (
    latent_mask,
    mask_conditioning,
    pixels_around_hole,
)
from ipadapter_demo.pipeline.inpainting.plan import plan_for
from ipadapter_demo.pipeline.inpainting.seam import match_seam_color
from ipadapter_demo.pipeline.latents import LatentEncoder, LatentInit
from ipadapter_demo.pipeline.samplers import new_scheduler
from ipadapter_demo.pipeline.schedule import Schedule, renoise
from ipadapter_demo.pipeline.sizes import reshaped
from ipadapter_demo.record import record_from_png, save_png
from ipadapter_demo.request import SAMPLERS, GenerateRequest, Inpaint, Reference, Structure
from tests.tiny import (
    box_mask,
    noise,
    picture,
    tiny_adapter,
    tiny_tabletop_unet,
    tiny_unet,
    tiny_vision_encoder,
)

REFERENCE = Reference(image=picture(1))
BASE = GenerateRequest(prompt="a cube", negative_prompt="blur", guidance=3.0, steps=3, seed=5)
WITH_IMAGE = replace(BASE, references=(REFERENCE,), image_scale=0.8)

# Text, two references, one of them only here and one weaker, what to avoid, edges, colours, a mask.
EVERYTHING = replace(
    BASE,
    references=(
        Reference(image=picture(1), mask=box_mask((0, 0, 40, 64))),
        Reference(image=picture(2), weight=0.5, fit="pad"),
        Reference(image=picture(6), negative=True),
    ),
    structures=(
        Structure(kind="canny", image=picture(3), annotator="canny", weight=0.7),
        Structure(kind="palette", image=picture(4), annotator="palette", window=(0.0, 0.7)),
    ),
    inpaint=Inpaint(image=picture(7), mask=box_mask((10, 10, 50, 45))),
)

WHOLE = EVERYTHING.inpaint
assert WHOLE is not None


def arrays(result: Result) -> np.ndarray:
    """(count, height, width, 3), signed so that differences are what they seem."""
    return np.stack([np.asarray(image, dtype=np.int16) for image in result.images])


def generated(pipeline: ImagePromptPipeline, request: GenerateRequest) -> np.ndarray:
    return arrays(pipeline.generate(request))


@contextmanager
def counted(network: nn.Module) -> Iterator[list[None]]:
    calls: list[None] = []
    hook = network.register_forward_hook(lambda *_: calls.append(None))
    try:
        yield calls
    finally:
        hook.remove()


class TestWithoutAnImage:
    @pytest.mark.parametrize("guidance", [1.0, 3.0])
    def test_scale_0_or_weight_0_or_no_reference_are_the_base_model(
        self, pipeline: ImagePromptPipeline, guidance: float
    ) -> None:
        """Law 1; test_oracle.py has diffusers confirm what the base model draws."""
        base = replace(BASE, guidance=guidance, count=2)
        expected = generated(pipeline, base)
        masked = replace(REFERENCE, mask=box_mask((0, 0, 32, 64)))
        negative = replace(REFERENCE, negative=True)
        for silent in (
            replace(base, references=(REFERENCE, masked, negative), image_scale=0.0),
            replace(base, references=(replace(REFERENCE, weight=0.0),)),
            replace(base, references=(REFERENCE,), image_window=(0.0, 0.1)),
        ):
            assert np.array_equal(generated(pipeline, silent), expected)
        heard = replace(base, references=(REFERENCE,))
        assert not np.array_equal(generated(pipeline, heard), expected)


class TestPasses:
    """Every step several times, for the seam."""

    REQUEST = replace(
        WITH_IMAGE,
        inpaint=Inpaint(
            image=picture(7), mask=box_mask((10, 10, 50, 45)), repaint_passes=3, feather=0
        ),
    )

    def test_they_change_the_inside_and_nothing_else(self, pipeline: ImagePromptPipeline) -> None:
        once = replace(self.REQUEST, inpaint=replace(self.REQUEST.inpaint, repaint_passes=1))
        one, other = (generated(pipeline, r)[0] for r in (once, self.REQUEST))
        inside = np.asarray(box_mask((10, 10, 50, 45))) > 0
        assert np.array_equal(one[~inside], other[~inside])
        assert np.abs(one - other)[inside].max() > 10

    def test_each_costs_its_steps_except_in_the_last(self, pipeline: ImagePromptPipeline) -> None:
        with counted(pipeline._model.unet) as calls:
            *previews, _ = pipeline.stream(self.REQUEST)
        assert len(calls) == 2 * 3 + 1
        assert [preview.step for preview in previews] == [1, 2, 3]

    def test_the_sampler_is_ddim(self, pipeline: ImagePromptPipeline) -> None:
        results = [
            generated(pipeline, replace(self.REQUEST, sampler=sampler)) for sampler in SAMPLERS
        ]
        assert all(np.array_equal(result, results[0]) for result in results)

    def test_they_do_not_depend_on_the_batch(self, pipeline: ImagePromptPipeline) -> None:
        batch = generated(pipeline, replace(self.REQUEST, count=3))
        alone = [generated(pipeline, replace(self.REQUEST, seed=seed)) for seed in (5, 6, 7)]
        assert np.abs(batch - np.concatenate(alone)).max() <= 1

    def test_noise_put_back_is_that_of_the_forward_process(self) -> None:
        """Latents of unit variance at one level have it at the other."""
        scheduler = new_scheduler("ddim", {})
        start = LatentInit(
            noise(0, 4, 4, 32, 32),
            generators=tuple(torch.Generator().manual_seed(i) for i in range(10, 14)),
        )
        for t, after in ((900, 800), (300, 100)):
            t_, after_ = torch.tensor(t), torch.tensor(after)
            clean, eps = torch.zeros(4, 4, 32, 32), noise(1, 4, 4, 32, 32)
            before = scheduler.add_noise(clean, eps, after_.expand(4))
            back = renoise(scheduler, t_, after_, before, start.more_noise())
            expected = (1 - scheduler.alphas_cumprod[t]).sqrt()
            assert back.std() == pytest.approx(float(expected), rel=0.02)


class TestSamePixels:
    """Law 3."""

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_the_same_request_twice(
        self, entry: CatalogEntry, pipeline: ImagePromptPipeline, sampler: Any
    ) -> None:
        request = replace(EVERYTHING, sampler=sampler)
        first = generated(pipeline, request)
        generated(pipeline, BASE)
        assert np.array_equal(generated(pipeline, request), first), "with warm caches"
        assert np.array_equal(generated(load(entry), request), first), "with cold ones"

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_an_image_does_not_depend_on_its_batch(
        self, pipeline: ImagePromptPipeline, sampler: Any
    ) -> None:
        """Nor does the noise that some samplers add in every step."""
        one = replace(WITH_IMAGE, sampler=sampler)
        batch = pipeline.generate(replace(one, count=4))
        assert batch.seeds == (5, 6, 7, 8)
        alone = [generated(pipeline, replace(one, seed=seed)) for seed in batch.seeds]
        assert np.abs(arrays(batch) - np.concatenate(alone)).max() <= 1
        assert np.abs(alone[0] - alone[1]).max() > 10

    def test_sixteen_at_once_get_what_each_would_get_alone(self, entry: CatalogEntry) -> None:
        """No λ, reference, mask or scheduler ever reaches another request, bit for bit."""
        requests = [
            replace(
                EVERYTHING if i % 3 == 0 else BASE,
                references=(Reference(image=picture(i)),) * (i % 4),
                image_scale=i / 8,
                seed=i,
                count=1 + i % 2,
                sampler=SAMPLERS[i % len(SAMPLERS)],
                steps=2 + i % 3,
            )
            for i in range(16)
        ]
        alone = [generated(load(entry), request) for request in requests]
        shared = load(entry)
        with ThreadPoolExecutor(16) as threads:
            together = list(threads.map(lambda request: generated(shared, request), requests))
        for ours, theirs in zip(together, alone, strict=True):
            assert np.array_equal(ours, theirs)


def test_generating_leaves_every_weight_alone(
    pipeline: ImagePromptPipeline, model: BaseModel
) -> None:
    """Law 9."""
    networks = (
        model.unet,
        *model.adapters.values(),
        *model.text.encoders,
        model.image_encoder,
        model.vae.autoencoder,
        *(net.net for net in model.structures.loaded()),
        model.inpaint_adapter.net,
    )
    before = [[weight.clone() for weight in net.state_dict().values()] for net in networks]
    pipeline.generate(EVERYTHING)
    for net, weights in zip(networks, before, strict=True):
        assert not net.training
        assert not any(parameter.requires_grad for parameter in net.parameters())
        assert all(map(torch.equal, net.state_dict().values(), weights))


@pytest.mark.parametrize(
    "request_",
    [replace(EVERYTHING, count=2), replace(WITH_IMAGE, init_image=picture(8), strength=0.7)],
    ids=["everything", "start picture"],
)
def test_a_png_makes_itself_again(
    pipeline: ImagePromptPipeline, entry: CatalogEntry, tmp_path: Path, request_: GenerateRequest
) -> None:
    """Law 10."""
    result = pipeline.generate(request_)
    index = request_.count - 1
    path = tmp_path / "output.png"
    save_png(path, result.images[index], request_, result.seeds[index], index, result.provenance)
    record = record_from_png(path)
    assert record.request == request_
    assert record.provenance == result.provenance
    again = load(entry).generate(record.request).images[record.index]
    with Image.open(path) as stored:
        assert (again.size, again.tobytes()) == (stored.size, stored.tobytes())


class TestInpainting:
    """Law 7, for pictures of any shape and size."""

    @pytest.mark.parametrize("feather", [0, 3, 40])
    @pytest.mark.parametrize("size", [(64, 64), (61, 75), (100, 37), (200, 64), (33, 31)])
    def test_outside_the_mask_nothing_changes_and_inside_it_does(
        self, pipeline: ImagePromptPipeline, size: tuple[int, int], feather: int
    ) -> None:
        width, height = size
        mask = box_mask((width // 5, height // 5, 4 * width // 5, 4 * height // 5), *size)
        given = picture(7, *size)
        request = replace(
            WITH_IMAGE, steps=2, inpaint=Inpaint(image=given, mask=mask, feather=feather)
        )
        changed = np.abs(generated(pipeline, request)[0] - np.asarray(given, np.int16)).max(-1)
        inside = np.asarray(mask) > 0
        assert changed.shape == (height, width)
        assert not changed[~inside].any()
        assert (changed[inside] > 0).mean() > 0.5

    def test_a_thin_stroke_on_a_large_picture_does_not_vanish(
        self, pipeline: ImagePromptPipeline
    ) -> None:
        given = picture(7, 512, 512)
        mask = box_mask((100, 200, 400, 203), 512, 512)
        first, second = (
            generated(
                pipeline,
                replace(
                    BASE, seed=seed, steps=2, inpaint=Inpaint(image=given, mask=mask, feather=0)
                ),
            )
            for seed in (1, 2)
        )
        assert np.abs(first - second)[0, 201, 100:400].max() > 3, "the model never drew there"

    def test_strength_keeps_some_of_what_was_under_the_mask(
        self, pipeline: ImagePromptPipeline, model: BaseModel
    ) -> None:
        assert EVERYTHING.inpaint is not None
        weak = replace(EVERYTHING, steps=10, inpaint=replace(EVERYTHING.inpaint, strength=0.3))
        with counted(model.unet) as calls:
            pipeline.generate(weak)
        assert len(calls) == 3


class TestContext:
    """Inpainting from near: only what lies around the mask is seen and drawn."""

    BOX = (10, 12, 30, 30)
    REQUEST = replace(
        EVERYTHING,
        inpaint=Inpaint(
            image=picture(7, 96, 80), mask=box_mask(BOX, 96, 80), context=0.3, feather=0
        ),
        structures=tuple(replace(s, fit="squash") for s in EVERYTHING.structures),
    )

    def test_what_lies_far_from_the_mask_has_no_say(self, pipeline: ImagePromptPipeline) -> None:
        other = picture(7, 96, 80)
        other.paste(picture(8), (60, 10))
        for context, same in ((0.3, True), (1.0, False)):
            one, two = (
                generated(
                    pipeline,
                    replace(
                        WITH_IMAGE,
                        inpaint=Inpaint(
                            image=image, mask=box_mask(self.BOX, 96, 80), context=context
                        ),
                    ),
                )[0]
                for image in (picture(7, 96, 80), other)
            )
            inside = np.asarray(box_mask(self.BOX, 96, 80)) > 0
            assert np.array_equal(one[inside], two[inside]) == same
            assert np.array_equal(two[~inside], np.asarray(other, np.int16)[~inside])

    def test_it_is_inpainting_of_the_part_around_the_mask(
        self, pipeline: ImagePromptPipeline
    ) -> None:
        given = self.REQUEST.inpaint
        assert given is not None
        left, upper, right, lower = box = mask_box(given.mask, given.context)
        assert right - left == lower - upper == round(20**0.7 * 96**0.3) == 32

        def part(image: Image.Image | None) -> Image.Image | None:
            return image and resize_image(image, (96, 80)).crop(box)

        cut = replace(
            self.REQUEST,
            inpaint=replace(given, image=part(given.image), mask=part(given.mask), context=1.0),
            references=tuple(replace(r, mask=part(r.mask)) for r in self.REQUEST.references),
            structures=tuple(replace(s, image=part(s.image)) for s in self.REQUEST.structures),
        )
        expected = np.asarray(given.image, np.int16).copy()
        expected[upper:lower, left:right] = generated(pipeline, cut)[0]
        result = pipeline.generate(self.REQUEST)
        assert np.array_equal(arrays(result)[0], expected)
        assert result.request == self.REQUEST
        assert list(result.maps) == pipeline.structure_maps(self.REQUEST)

    def test_previews_show_the_whole_picture(self, pipeline: ImagePromptPipeline) -> None:
        preview, *_ = pipeline.stream(self.REQUEST, preview_every=1)
        assert isinstance(preview, Preview)
        assert preview.images[0].size == (96, 80)

    def test_previews_of_a_large_picture_are_as_large_as_what_is_drawn(self) -> None:
        given = Inpaint(
            image=picture(7, 960, 800), mask=box_mask((100, 120, 300, 300), 960, 800), context=0.3
        )
        drawn = picture(2, 32, 32)
        small = uncrop_preview(given, drawn)
        assert small.size == (96, 80)
        left, upper, *_ = mask_box(given.mask, given.context)
        box = (round(left / 10), round(upper / 10), round(left / 10) + 32, round(upper / 10) + 32)
        assert small.crop(box).tobytes() == drawn.tobytes()

    def test_what_was_drawn_keeps_its_detail_where_it_is_put_back(self) -> None:
        """More than by a bicubic filter; diffusers pastes with Lanczos, too."""
        stripes = np.zeros((128, 128, 3), np.uint8)
        stripes[:, ::4] = stripes[:, 1::4] = 255
        drawn = Image.fromarray(stripes)
        given = Inpaint(
            image=picture(7, 200, 200), mask=box_mask((40, 40, 140, 140), 200, 200), context=0.0
        )
        put = uncrop(given, drawn).crop((40, 40, 140, 140))
        bicubic = drawn.resize(put.size, Image.Resampling.BICUBIC)
        assert put.tobytes() == drawn.resize(put.size, Image.Resampling.LANCZOS).tobytes()
        assert np.asarray(put).std() > 1.03 * np.asarray(bicubic).std()

    def test_a_thread_has_previews(self) -> None:
        mask = box_mask((0, 0, 600, 2), 640, 2)
        given = Inpaint(image=picture(7, 640, 2), mask=mask, context=0.5)
        assert uncrop_preview(given, picture(2, 64, 32)).size == (66, 1)

    def test_previews_are_put_in_their_place(self) -> None:
        given = self.REQUEST.inpaint
        assert given is not None
        drawn = (picture(2, 64, 64), picture(3, 64, 64))
        plan = plan_for(self.REQUEST, 64)
        shown = plan.restored_preview(drawn)
        assert [image.size for image in shown] == [(96, 80)] * 2
        box = mask_box(given.mask, given.context)
        for image, part in zip(shown, drawn, strict=True):
            expected = given.image.copy()
            expected.paste(part.resize((32, 32), Image.Resampling.LANCZOS), box)
            assert image.tobytes() == expected.tobytes()
        whole = replace(self.REQUEST, inpaint=replace(given, context=1.0))
        assert plan_for(whole, 64).restored_preview(drawn) == drawn

    @pytest.mark.parametrize(
        ("box", "size", "context", "expected"),
        [
            ((0, 0, 10, 10), (100, 100), 0.0, (0, 0, 10, 10)),
            ((40, 45, 60, 55), (100, 100), 0.0, (40, 40, 60, 60)),
            ((40, 45, 60, 55), (100, 100), 1.0, (0, 0, 100, 100)),
            ((90, 0, 100, 10), (100, 100), 0.5, (68, 0, 100, 32)),
            ((0, 10, 400, 14), (400, 20), 0.5, (0, 0, 400, 20)),
        ],
    )
    def test_the_box_holds_the_mask_and_stays_in_the_picture(
        self,
        box: tuple[int, int, int, int],
        size: tuple[int, int],
        context: float,
        expected: tuple[int, int, int, int],
    ) -> None:
        assert mask_box(box_mask(box, *size), context) == expected

    def test_all_that_has_a_place_is_cropped_with_the_picture(self) -> None:
        given = self.REQUEST.inpaint
        assert given is not None
        assert drawn_size(given) == (32, 32)
        classes = Structure(kind="segmentation", image=picture(5, 30, 50), weight=0.4, fit="pad")
        asked = replace(self.REQUEST, structures=(*self.REQUEST.structures, classes))
        cropped, box = crop_to_mask(asked), mask_box(given.mask, given.context)
        assert cropped.inpaint == replace(
            given, image=given.image.crop(box), mask=given.mask.crop(box), context=1.0
        )
        for ours, whole in zip(cropped.structures, asked.structures, strict=True):
            placed = reshaped(whole.image, (96, 80), whole.fit, whole.resampling)
            told = {f.name: getattr(ours, f.name) for f in fields(Structure)}
            assert Structure(**told) == replace(whole, image=placed.crop(box), fit="squash")
        for one, own in zip(cropped.references, asked.references, strict=True):
            region = own.mask and resize_image(own.mask, (96, 80)).crop(box)
            assert one == replace(own, mask=region)
        assert (
            replace(
                cropped,
                inpaint=asked.inpaint,
                structures=asked.structures,
                references=asked.references,
            )
            == asked
        )

    def test_nothing_is_cropped_where_all_is_seen(self) -> None:
        given = self.REQUEST.inpaint
        assert given is not None
        whole = replace(self.REQUEST, inpaint=replace(given, context=1.0))
        plain = replace(self.REQUEST, inpaint=None)
        assert crop_to_mask(whole) is whole
        assert crop_to_mask(plain) is plain
        assert whole.inpaint is not None
        assert drawn_size(whole.inpaint) == (96, 80)

    def test_a_box_of_odd_sides_is_whole(self) -> None:
        assert mask_box(box_mask((40, 45, 61, 56), 100, 100), 0.0) == (40, 40, 61, 61)
        assert mask_box(box_mask((40, 45, 60, 56), 100, 100), 0.0) == (40, 40, 60, 60)
        assert all(isinstance(side, int) for side in mask_box(box_mask((3, 4, 8, 11)), 0.25))


class TestHole:
    """What the networks are given that read a mask."""

    GIVEN = Inpaint(image=picture(7, 64, 48), mask=box_mask((10, 12, 31, 29), 64, 48))

    def test_around_it_is_the_picture_and_in_it_grey(self) -> None:
        """Each cell that the mask touches is part of the hole: 10 to 30 are cells 5 to 15."""
        found = pixels_around_hole(self.GIVEN, (32, 24))
        small = self.GIVEN.image.resize((32, 24), Image.Resampling.BICUBIC)
        expected = torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255
        hole = torch.zeros(24, 32)
        hole[6:15, 5:16] = 1
        expected[:, hole == 1] = 0.5
        assert found.shape == (1, 4, 24, 32)
        torch.testing.assert_close(found[0, :3], expected, rtol=0, atol=1e-6)
        assert torch.equal(found[0, 3], hole)

    def test_an_inpainting_unet_reads_the_mask_and_what_is_left(self, model: BaseModel) -> None:
        latents = LatentEncoder(model)
        found = mask_conditioning(self.GIVEN, (64, 48), latents)
        cells = torch.zeros(12, 16)
        cells[3:8, 2:8] = 1  # of 4 pixels
        left = torch.from_numpy(np.array(self.GIVEN.image)).permute(2, 0, 1)[None] / 127.5 - 1
        left[:, :, 12:29, 10:31] = 0
        assert found.shape == (1, 5, 12, 16)
        assert torch.equal(found[0, 0], cells)
        expected = model.vae.latents_from_pixels(left)
        torch.testing.assert_close(found[:, 1:], expected, rtol=0, atol=1e-6)

    def test_without_an_inpainting_all_of_it_is_the_hole(self, model: BaseModel) -> None:
        found = mask_conditioning(None, (64, 48), LatentEncoder(model))
        assert found.shape == (1, 5, 12, 16)
        assert bool((found[:, 0] == 1).all())
        grey = model.vae.latents_from_pixels(torch.zeros(1, 3, 48, 64))
        assert torch.equal(found[:, 1:], grey)

    def test_strokes_thinner_than_a_cell_do_not_vanish(self) -> None:
        assert latent_mask(box_mask((9, 3, 10, 60)), (8, 8)).tolist() == [
            [[[0.0, 1.0, *[0.0] * 6]] * 8]
        ]


class TestAroundTheMask:
    """A network reads what is left of a picture of which a part is replaced."""

    REQUEST = replace(
        WITH_IMAGE, inpaint=Inpaint(image=picture(7), mask=box_mask((16, 20, 48, 60)))
    )

    def test_it_has_a_say_where_there_is_a_mask(
        self, model: BaseModel, pipeline: ImagePromptPipeline
    ) -> None:
        without = ImagePromptPipeline(replace(model, inpaint_adapter=None))
        for request, same in ((self.REQUEST, False), (replace(self.REQUEST, inpaint=None), True)):
            one, other = generated(pipeline, request), generated(without, request)
            assert np.array_equal(one, other) == same

    def test_it_never_sees_what_is_under_the_mask(self, pipeline: ImagePromptPipeline) -> None:
        given = self.REQUEST.inpaint
        assert given is not None
        other = Image.composite(picture(9), given.image, given.mask)
        (one,), (again,) = (
            pipeline._conditioner.condition(request, (64, 64)).structures
            for request in (
                self.REQUEST,
                replace(self.REQUEST, inpaint=replace(given, image=other)),
            )
        )
        assert one.condition is not again.condition
        assert all(map(torch.equal, one.condition.seen, again.condition.seen))

    def test_references_act_inside_the_mask(self) -> None:
        (reference,), around = split_by_mask(self.REQUEST, has_inpaint_adapter=True)
        assert around == []
        assert reference.mask is not None
        assert reference.mask.getbbox() == (19, 23, 45, 57)
        assert split_by_mask(self.REQUEST)[0][0].mask is None


def led_over(given: Image.Image, drawn: Image.Image, mask: Image.Image) -> np.ndarray:
    """What `match_seam_color` adds: offsets of the mean colours on both sides of the edge, as far
    as both are plain and alike, blurred over a sixteenth of the longer side."""
    longest = max(mask.size)
    whole = [np.asarray(image, float) for image in (mask, drawn, given)]
    if longest > 256:
        small = [round(side * 256 / longest) for side in mask.size]
        whole = [area_mean(values, *small) for values in whole]
    white, ours, theirs = whole
    size = max(white.shape)

    def blurred(values: np.ndarray, part: float) -> np.ndarray:
        sigma = (part * size,) * 2 + (0,) * (values.ndim - 2)
        return scipy.ndimage.gaussian_filter(values, sigma, mode="nearest", truncate=4.0)

    def beside(image: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        share = blurred(where, 1 / 85)
        weight = share.clip(1e-4)[..., None]
        mean = blurred(image * where[..., None], 1 / 85) / weight
        square = blurred(image**2 * where[..., None], 1 / 85) / weight
        return mean, (square - mean**2).clip(0).sum(-1), share

    inner, unrest, share = beside(ours, (white / 255 > 0.99).astype(float))
    outer, more_unrest, other_share = beside(theirs, (white / 255 < 0.01).astype(float))
    off, edge = outer - inner, np.minimum(share, other_share)
    trust = np.exp(-(unrest + more_unrest) / 60 - (np.abs(off).max(-1) / 8) ** 4) * edge
    trust[edge <= 0.1] = 0
    field = blurred(off * trust[..., None], 1 / 16) / (blurred(trust, 1 / 16)[..., None] + 1e-3)
    bands = [
        Image.fromarray(field[..., i].astype(np.float32)).resize(
            mask.size, Image.Resampling.BILINEAR
        )
        for i in range(3)
    ]
    return np.stack([np.asarray(band) for band in bands], axis=-1)


def area_mean(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """Each cell the mean of what it covers."""
    for axis, length in ((0, height), (1, width)):
        edges = np.linspace(0, values.shape[axis], length + 1)
        sums = np.insert(np.cumsum(values, axis), 0, 0, axis)
        whole, rest = np.divmod(edges, 1)
        low = np.take(sums, whole.astype(int), axis)
        high = np.take(sums, np.minimum(whole.astype(int) + 1, values.shape[axis]), axis)
        share = rest.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
        values = np.diff(low + share * (high - low), axis=axis) / np.diff(edges)[0]
    return values


class TestSeam:
    """A tint that is off by a little is led over to what is around the mask; all else stays."""

    SIZE = (96, 64)
    MASK = box_mask((30, 16, 70, 48), *SIZE)
    PLAIN = Image.new("RGB", SIZE, (90, 140, 200))

    def drawn(self, colour: tuple[int, int, int]) -> Image.Image:
        return Image.composite(Image.new("RGB", self.SIZE, colour), self.PLAIN, self.MASK)

    @pytest.mark.parametrize("scale", [1, 10])
    def test_a_small_tint_goes(self, scale: int) -> None:
        width, height = (side * scale for side in self.SIZE)
        given, drawn, mask = (
            image.resize((width, height), Image.Resampling.NEAREST)
            for image in (self.PLAIN, self.drawn((94, 137, 202)), self.MASK)
        )
        after = np.asarray(match_seam_color(given, drawn, mask), np.int16)
        assert np.abs(after - np.asarray(given))[np.asarray(mask) > 0].max() <= 1

    @pytest.mark.parametrize("scale", [1, 4])
    def test_it_is_led_over_as_the_formula_says(self, scale: int) -> None:
        """In float64 and by scipy. At scale 4 the picture is looked at in a third of its size."""
        grid = np.mgrid[0:64, 0:96].transpose(1, 2, 0) / 96
        ramp = (60 + 100 * grid @ [[0.3, 0.2, 0.1], [0.1, 0.2, 0.3]]).round()
        tint = np.where(grid[..., 1:] < 0.5, [5, -3, 2], [-4, 3, 1]) * (grid[..., :1] + 0.5)
        mask = self.MASK.copy()
        mask.paste(255, (80, 30, 96, 34))  # a thin one as well, at the border
        speckle = np.random.default_rng(0).integers(0, 40, ramp.shape) * (grid[..., :1] > 0.4)
        given, drawn = (
            Image.fromarray(values.clip(0, 255).astype(np.uint8)).resize(
                (96 * scale, 64 * scale), Image.Resampling.NEAREST
            )
            for values in (ramp + speckle, (ramp + speckle + tint).round())
        )
        mask = mask.resize(given.size, Image.Resampling.NEAREST)
        after = np.asarray(match_seam_color(given, drawn, mask), np.int16)
        expected = np.asarray(drawn) + led_over(given, drawn, mask)
        assert np.abs(after - expected.clip(0, 255)).max() < 0.51
        assert np.abs(after - np.asarray(drawn)).max() > 2

    def test_what_is_meant_to_differ_stays(self) -> None:
        drawn = self.drawn((140, 60, 60))
        assert match_seam_color(self.PLAIN, drawn, self.MASK).tobytes() == drawn.tobytes()

    def test_a_pattern_is_not_taken_for_a_tint(self) -> None:
        stripes = Image.fromarray(np.tile(np.uint8([[[60], [180]]]), (64, 48, 3)))
        drawn = Image.composite(Image.eval(stripes, lambda v: v + 4), stripes, self.MASK)
        assert match_seam_color(stripes, drawn, self.MASK).tobytes() == drawn.tobytes()

    def test_a_mask_of_everything_has_no_edge(self) -> None:
        drawn = self.drawn((94, 137, 202))
        whole = Image.new("L", self.SIZE, 255)
        assert match_seam_color(self.PLAIN, drawn, whole).tobytes() == drawn.tobytes()


class TestSurroundings:
    """Around a mask the picture itself is the image prompt; references act inside it."""

    REQUEST = replace(
        WITH_IMAGE,
        inpaint=Inpaint(image=picture(7), mask=box_mask((16, 20, 48, 60)), background_weight=0.8),
    )

    def test_they_are_a_reference_of_their_own_with_the_rest_as_its_region(
        self, pipeline: ImagePromptPipeline
    ) -> None:
        given = self.REQUEST.inpaint
        assert given is not None
        rim = 3  # 0.05 of 64 pixels
        inner = box_mask((16 + rim, 20 + rim, 48 - rim, 60 - rim))
        spelled = replace(
            self.REQUEST,
            inpaint=replace(given, background_weight=0.0),
            references=(
                *(replace(r, mask=inner) for r in self.REQUEST.references),
                Reference(
                    image=given.image, weight=0.8, fit="squash", mask=ImageChops.invert(inner)
                ),
            ),
        )
        assert np.array_equal(generated(pipeline, self.REQUEST), generated(pipeline, spelled))

    def test_without_a_reference_there_is_nothing_to_keep_in_bounds(
        self, pipeline: ImagePromptPipeline
    ) -> None:
        alone = replace(self.REQUEST, references=())
        given = alone.inpaint
        assert given is not None
        none = replace(alone, inpaint=replace(given, background_weight=0.0))
        assert np.array_equal(generated(pipeline, alone), generated(pipeline, none))

    def test_a_region_that_the_request_gives_stays(self) -> None:
        region = box_mask((0, 0, 20, 64))
        own = replace(
            self.REQUEST,
            references=(Reference(image=picture(3), mask=region), Reference(image=picture(4))),
        )
        (first, second), (around,) = split_by_mask(own)
        assert first.mask is not None
        assert first.mask.tobytes() == region.tobytes()
        assert second.mask is not None
        assert around.mask is not None
        assert ImageChops.invert(second.mask).tobytes() == around.mask.tobytes()

    def test_several_references_share_the_mask_as_they_share_a_picture(
        self, pipeline: ImagePromptPipeline
    ) -> None:
        one, two = Reference(image=picture(3)), Reference(image=picture(4))

        def drawn(*references: Reference, **changes: Any) -> np.ndarray:
            return generated(pipeline, replace(self.REQUEST, references=references, **changes))

        once = drawn(one).astype(int)
        assert np.abs(drawn(one, one, combine="average") - once).max() <= 1
        assert np.abs(drawn(one, one) - once).max() <= 1
        apart = drawn(one, two, combine="average") - drawn(one, two).astype(int)
        assert np.abs(apart).max() > 1

    def test_average_of_regions_is_said_to_do_nothing(self, pipeline: ImagePromptPipeline) -> None:
        left, right = box_mask((0, 0, 32, 64)), box_mask((32, 0, 64, 64))
        references = [Reference(image=picture(3), mask=m) for m in (left, right, None, None)]
        plain = replace(self.REQUEST, inpaint=None, combine="average")
        said = "combine has no effect: each reference with a mask acts in its own region."
        assert said in pipeline.generate(replace(plain, references=references[:3])).warnings
        assert said not in pipeline.generate(replace(plain, references=references)).warnings

    def test_what_is_not_followed_has_no_part(self) -> None:
        followed = Reference(image=picture(3))
        others = replace(followed, negative=True), replace(followed, weight=0.0)
        given = replace(self.REQUEST, references=(*others, followed))
        [only], [around] = split_by_mask(given)
        assert (only.image, only.weight, only.negative) == (followed.image, 1.0, False)
        assert given.inpaint is not None
        assert (around.image, around.fit) == (given.inpaint.image, "squash"), "all of it is read"
        assert split_by_mask(replace(self.REQUEST, references=others)) == ([], [])

    def test_a_mask_of_everything_has_none(self) -> None:
        given = Inpaint(image=picture(7), mask=box_mask((0, 0, 64, 64)), background_weight=1.0)
        (reference,), around = split_by_mask(replace(self.REQUEST, inpaint=given))
        assert around == []
        assert reference.mask is not None
        assert reference.mask.getextrema() == (255, 255)

    def test_only_what_the_request_names_is_watched(self, pipeline: ImagePromptPipeline) -> None:
        *_, result = pipeline.stream(self.REQUEST, record_attention=True)
        assert isinstance(result, Result)
        assert [len(maps) for maps in result.attention_maps] == [len(self.REQUEST.references)]


class TestEverythingTogether:
    def test_in_one_call(self, pipeline: ImagePromptPipeline) -> None:
        result = pipeline.generate(replace(EVERYTHING, count=2))
        assert [image.size for image in result.images] == [(64, 64)] * 2
        assert result.seeds == (5, 6)
        assert [drawn.size for drawn in result.maps] == [(64, 64)] * 2
        assert result.seconds > 0
        assert result.warnings == ()

    @pytest.mark.parametrize(
        "changes",
        [
            {"prompt": "a sphere"},
            {"negative_prompt": ""},
            {"references": EVERYTHING.references[1:]},
            {
                "references": (
                    replace(EVERYTHING.references[0], mask=None),
                    *EVERYTHING.references[1:],
                )
            },
            {"references": (EVERYTHING.references[0], *EVERYTHING.references[2:])},
            {
                "references": (
                    EVERYTHING.references[0],
                    replace(EVERYTHING.references[1], weight=1.0),
                    EVERYTHING.references[2],
                )
            },
            {"references": EVERYTHING.references[:2]},
            {"image_scale": 0.5},
            {"image_window": (0.0, 0.7)},
            {"guidance": 3.5},
            {"steps": 4},
            {"sampler": "ddim"},
            {"noise_schedule": "karras"},
            {"seed": 6},
            {"structures": EVERYTHING.structures[1:]},
            {"structures": EVERYTHING.structures[:1]},
            {
                "structures": (
                    replace(EVERYTHING.structures[0], annotator="none"),
                    EVERYTHING.structures[1],
                )
            },
            {"inpaint": replace(EVERYTHING.inpaint, strength=0.7)},
            {"inpaint": replace(EVERYTHING.inpaint, feather=8)},
            {"inpaint": replace(EVERYTHING.inpaint, context=0.5)},
            {"inpaint": replace(EVERYTHING.inpaint, background_weight=0.5)},
            {"inpaint": None},
        ],
    )
    def test_each_part_has_an_effect(
        self, pipeline: ImagePromptPipeline, changes: dict[str, Any]
    ) -> None:
        changed = generated(pipeline, replace(EVERYTHING, **changes))
        assert not np.array_equal(changed, generated(pipeline, EVERYTHING))

    @pytest.mark.parametrize("sampler", SAMPLERS)
    @pytest.mark.parametrize("steps", [1, 2])
    def test_very_few_steps(self, pipeline: ImagePromptPipeline, sampler: Any, steps: int) -> None:
        assert pipeline.generate(replace(EVERYTHING, sampler=sampler, steps=steps)).images

    @pytest.mark.parametrize("size", [(72, 88), (104, 64)])
    def test_other_shapes(self, pipeline: ImagePromptPipeline, size: tuple[int, int]) -> None:
        request = replace(EVERYTHING, inpaint=None, width=size[0], height=size[1])
        assert pipeline.generate(request).images[0].size == size


class TestSizes:
    def test_open_sides_are_the_model_s_own(self, pipeline: ImagePromptPipeline) -> None:
        assert pipeline.info.native_size == 64
        assert pipeline.working_size(BASE) == (64, 64)
        assert pipeline.working_size(replace(BASE, width=96)) == (96, 64)

    def test_or_follow_the_picture_that_is_changed(self, pipeline: ImagePromptPipeline) -> None:
        start = replace(BASE, init_image=picture(1, 300, 200))
        assert pipeline.working_size(start) == (80, 56)  # 78 x 52, in eights
        assert pipeline.generate(start).images[0].size == (80, 56)


class TestStream:
    def test_a_preview_after_every_step_then_the_result(
        self, pipeline: ImagePromptPipeline
    ) -> None:
        *previews, result = pipeline.stream(WITH_IMAGE)
        assert isinstance(result, Result)
        assert [(one.step, one.steps, one.images) for one in previews] == [
            (step, 3, ()) for step in (1, 2, 3)
        ]
        assert all(one.seconds > 0 for one in previews)

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_pictures_on_every_so_manyth_step(
        self, pipeline: ImagePromptPipeline, sampler: Any
    ) -> None:
        request = replace(WITH_IMAGE, steps=6, count=2, sampler=sampler)
        *previews, result = pipeline.stream(request, preview_every=2)
        shown = [event.step for event in previews if event.images]
        assert shown == ([2, 4] if sampler != "pndm" else [2, 4, 6])  # it repeats one step
        assert {len(event.images) for event in previews} == {0, 2}
        assert np.array_equal(arrays(result), generated(pipeline, request))

    def test_requests_that_share_calls_each_have_their_time(
        self, pipeline: ImagePromptPipeline
    ) -> None:
        began = time.monotonic()
        first, second = pipeline.generate_all([WITH_IMAGE, replace(WITH_IMAGE, seed=6)], share=2)
        assert first.attention_maps == second.attention_maps == ()
        for result in (first, second):
            assert 0 < result.seconds <= time.monotonic() - began

    def test_previews_approach_the_result(self, pipeline: ImagePromptPipeline) -> None:
        """They show the clean picture that a step points to, not the noisy one it is at."""
        *previews, result = pipeline.stream(replace(WITH_IMAGE, steps=10), preview_every=1)
        off = [
            np.abs(arrays(result)[0] - np.asarray(event.images[0], np.int16)).mean()
            for event in previews[:-1]
        ]
        assert off[-1] < off[0] / 2
        assert off[-1] < 5

    def test_closing_it_stops_the_model(
        self, pipeline: ImagePromptPipeline, model: BaseModel
    ) -> None:
        with counted(model.unet) as calls:
            events = pipeline.stream(replace(WITH_IMAGE, steps=50))
            next(events)
            next(events)
            events.close()
            before = len(calls)
            assert pipeline.generate(WITH_IMAGE).images, "and the next request finds it free"
            assert 2 <= before <= len(calls) - 3 <= before + 1, "no further step began"

    def test_nothing_runs_before_it_is_asked_for(
        self, pipeline: ImagePromptPipeline, model: BaseModel
    ) -> None:
        with counted(model.unet) as calls:
            pipeline.stream(WITH_IMAGE)
        assert not calls


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", ["dpm++", "pndm", "unipc"])
def test_clean_latents_are_what_ddim_says(model: BaseModel, sampler: Any, kind: str) -> None:
    """Samplers that do not say themselves."""
    config = model.scheduler_config | {"prediction_type": kind}
    ours, ddim = new_scheduler(sampler, config), new_scheduler("ddim", config)
    ddim.set_timesteps(4)
    schedule = Schedule(ours, 4)
    latents, output, t = noise(1, 1, 4, 4, 4), noise(2, 1, 4, 4, 4), schedule.timesteps[0]
    expected = ddim.step(output, t, latents).pred_original_sample
    torch.testing.assert_close(schedule.step(output, latents, 0, ())[1], expected)


class TestLoading:
    def test_what_a_page_has_to_know(self, pipeline: ImagePromptPipeline) -> None:
        info = pipeline.info
        assert (info.name, info.recommended.guidance, info.recommended.steps) == ("tiny", 3.0, 3)
        assert info.structures == {
            "canny": ("canny", "lineart", "none"),
            "palette": ("palette", "none"),
        }

    def test_facts_name_the_weights_and_the_versions(self, pipeline: ImagePromptPipeline) -> None:
        provenance = pipeline.provenance
        assert (provenance["model"], provenance["device"], provenance["dtype"]) == (
            "tiny",
            "cpu",
            "float32",
        )
        assert {
            "unet/diffusion_pytorch_model.safetensors",
            "ip-adapter.safetensors",
            "controlnet-canny/diffusion_pytorch_model.safetensors",
        } <= set(provenance["weights"])
        assert all(len(sum_) == 64 for sum_ in provenance["weights"].values())
        assert torch.__version__.startswith(provenance["versions"]["torch"])

    def test_half_precision(self, entry: CatalogEntry, pipeline: ImagePromptPipeline) -> None:
        half = load(entry, dtype="bfloat16")
        assert half.provenance["dtype"] == "bfloat16"
        off = np.abs(generated(half, EVERYTHING) - generated(pipeline, EVERYTHING))
        assert off.mean() < 5
        assert generated(half, WITH_IMAGE).shape == (1, 64, 64, 3)

    def test_a_decoder_that_overflows_decodes_again_and_says_so(
        self, entry: CatalogEntry, model: BaseModel
    ) -> None:
        """In float32 the two factors cancel; in half precision the first is too much."""
        overflowing = load_base_model(entry, "cpu", torch.float16)
        [first, *_] = [
            layer.conv
            for layer in overflowing.vae.autoencoder.decoder.layers
            if hasattr(layer, "conv")
        ]
        with torch.no_grad():
            first[0].weight.mul_(3e5)
            first[0].bias.mul_(3e5)
            first[2].weight.div_(3e5)
        vae = overflowing.vae
        latents = 50 * noise(1, 1, 4, 8, 8).half()
        assert not vae.pixels_from_latents(latents).isfinite().all()
        assert vae.pixels_in_float32(latents).isfinite().all()
        assert vae.autoencoder.dtype == torch.float16
        images, warnings = decoded(overflowing, latents)
        assert warnings == (DECODED_AGAIN,)
        assert images[0].getextrema() != ((0, 0),) * 3
        assert not decoded(model, latents)[1]
        with torch.no_grad():
            first[0].weight.fill_(torch.nan)
        with pytest.raises(ModelError) as refusal:
            decoded(overflowing, latents)
        assert str(refusal.value) == (
            "tiny in torch.float16 gave pixels that are not finite: load it in float32"
        )
        broken = load_base_model(entry, "cpu", torch.float32)
        with pytest.raises(ModelError) as refusal:
            decoded(broken, torch.nan * latents.float())
        assert str(refusal.value) == (
            "tiny in torch.float32 gave pixels that are not finite: a file of its weights or of a "
            "LoRA is damaged"
        )

    def test_an_ordinary_autoencoder(self) -> None:
        """Its latents are the mode of a distribution, and scaled."""
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            norm_num_groups=4,
            scaling_factor=0.5,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        ).eval()
        ours, pixels = VAE(vae), noise(1, 1, 3, 16, 16)
        latents = ours.latents_from_pixels(pixels)
        assert (ours.factor, latents.shape) == (2, (1, 4, 8, 8))
        torch.testing.assert_close(latents, vae.encode(pixels).latent_dist.mean * 0.5)
        torch.testing.assert_close(
            ours.pixels_from_latents(latents), vae.decode(latents / 0.5).sample
        )

    def test_unknown_names(self, entry: CatalogEntry, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"model must be one of tabletop.*, got 'sd0'"):
            load("sd0")
        with pytest.raises(ModelError, match=r"dtype must be one of auto, .*, got 'int4'"):
            load(entry, dtype="int4")  # type: ignore[arg-type]
        with pytest.raises(ModelError) as refusal:
            load("sd0")
        assert str(refusal.value) == (
            f"model must be one of {', '.join([*CATALOG, *PUBLISHED])}, got 'sd0'"
        )
        with pytest.raises(ModelError) as refusal:
            load(entry, dtype="int4")  # type: ignore[arg-type]
        assert str(refusal.value) == f"dtype must be one of {', '.join(DTYPES)}, got 'int4'"
        with pytest.raises(ModelError) as refusal:
            load("tabletop", base="sd15")
        assert str(refusal.value) == (
            "base goes with a published model, not with tabletop: its adapter fits no other base"
        )
        with pytest.raises(ModelError) as refusal:
            load("tabletop", model_adapter=tmp_path / "base.bin")
        assert str(refusal.value) == (
            "model_adapter: base.bin would be called base, which tabletop has already: give the "
            "file another name"
        )
        with pytest.raises(ModelError, match=r"^device cuda:99 cannot be used here: "):
            load(entry, device="cuda:99")
        with pytest.raises(ModelError, match=r"model tiny: no folder .*nowhere"):
            load(replace(entry, folder=tmp_path / "nowhere"))

    def test_a_file_of_one_s_own_comes_first(self, tmp_path: Path) -> None:
        options = LoadOptions(model_adapter=tmp_path / "mine.bin")
        entry = _entry_named("tabletop", options, no_report)
        assert list(entry.adapters.items()) == [
            ("mine", str(tmp_path / "mine.bin")),
            *TABLETOP.adapters.items(),
        ]
        assert replace(entry, adapters=TABLETOP.adapters) == TABLETOP
        assert _entry_named("tabletop", LoadOptions(), no_report) is TABLETOP

    @pytest.mark.parametrize(
        "part",
        [
            "unet",
            "vae",
            "text_encoder",
            "tokenizer",
            "image_encoder",
            "scheduler",
            "controlnet-canny",
            "t2i-palette",
        ],
    )
    def test_a_missing_part_is_named(self, copy: CatalogEntry, part: str) -> None:
        shutil.rmtree(copy.folder / part)
        with pytest.raises(ModelError, match=f"{part}.* is missing, looked in"):
            load(copy)

    def test_a_missing_adapter_is_named(self, copy: CatalogEntry) -> None:
        (copy.folder / copy.adapters["base"]).unlink()
        with pytest.raises(CheckpointError, match=r"ip-adapter\.safetensors: no such file in"):
            load(copy)

    def test_a_damaged_file_is_named(self, copy: CatalogEntry) -> None:
        path = copy.folder / "text_encoder" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(ModelError, match="the part 'text_encoder' cannot be loaded"):
            load(copy)

    def test_a_file_that_lacks_a_tensor_is_not_filled_up_with_noise(
        self, copy: CatalogEntry
    ) -> None:
        from safetensors.torch import load_file, save_file

        path = copy.folder / "text_encoder" / "model.safetensors"
        tensors = load_file(path)
        lost = tensors.popitem()[0]
        save_file(tensors, path, metadata={"format": "pt"})
        with pytest.raises(ModelError, match=f"the weights of 'text_encoder' lack .*{lost[-20:]}"):
            load(copy)

    def test_an_adapter_for_another_encoder_is_refused(self, copy: CatalogEntry) -> None:
        tiny_vision_encoder(projection_dim=28).save_pretrained(copy.folder / "image_encoder")
        with pytest.raises(CheckpointError, match="it reads 20 channels, the encoder gives 28"):
            load(copy)

    def test_an_adapter_for_another_base_is_refused(self, copy: CatalogEntry) -> None:
        save_image_adapter(tiny_adapter(tiny_unet()), copy.folder / copy.adapters["base"])
        with pytest.raises(CheckpointError, match="does not fit this base model"):
            load(copy)

    @pytest.fixture
    def copy(self, entry: CatalogEntry, tmp_path: Path) -> CatalogEntry:
        """The tiny model once more, to be damaged."""
        shutil.copytree(entry.folder, tmp_path / "copy")
        return replace(entry, folder=tmp_path / "copy")


def test_a_model_without_its_adapter_is_a_programmer_s_mistake(model: BaseModel) -> None:
    with pytest.raises(AssertionError):
        ImagePromptPipeline(replace(model, unet=tiny_tabletop_unet()))
