"""The fit "crop" shows the encoder the very pixels of CLIPImageProcessor.

The first authors and diffusers had the one that resizes with PIL, which transformers 5 calls
CLIPImageProcessorPil: to that the pixels are equal bit for bit. CLIPImageProcessor of transformers
5 resizes with torchvision, whose bicubic filter rounds on its own.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from ipadapter_demo.imaging import LONGEST, centre_crop, fit_square
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.pipeline.conditioning import Conditioner
from ipadapter_demo.request import GenerateRequest, Reference

RNG = np.random.default_rng(0)
SIZES = [
    (224, 224),
    (1024, 768),
    (768, 1024),
    (1920, 1080),
    (333, 500),
    (500, 333),
    (225, 224),
    (224, 227),
    (100, 101),
    (64, 1000),
    (1000, 64),
    (31, 17),
    (1, 90),
    (90, 1),
    (1, 1),
    *map(tuple, RNG.integers(20, 700, (30, 2)).tolist()),
]
ONE_LEVEL = 1 / 255


def noise(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def seen_by(kind: type, image: Image.Image, **settings: object) -> np.ndarray:
    raw = kind(do_rescale=False, do_normalize=False, **settings)
    return raw(image, return_tensors="np").pixel_values[0].transpose(1, 2, 0).astype(int)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_crop_is_that_of_the_processor(size: tuple[int, int]) -> None:
    image = noise(size)
    cropped = np.asarray(fit_square(image, 224, "crop"), int)
    assert np.array_equal(cropped, seen_by(CLIPImageProcessorPil, image))
    assert abs(cropped - seen_by(CLIPImageProcessor, image)).max() <= 2


@pytest.mark.parametrize(
    ("shortest", "side", "resample"),
    [(256, 224, Image.Resampling.BICUBIC), (129, 128, Image.Resampling.BILINEAR)],
)
def test_a_processor_may_crop_more_and_filter_otherwise(
    shortest: int, side: int, resample: Image.Resampling
) -> None:
    image = noise((301, 190))
    expected = seen_by(
        CLIPImageProcessorPil,
        image,
        size={"shortest_edge": shortest},
        crop_size={"height": side, "width": side},
        resample=resample,
    )
    assert np.array_equal(np.asarray(centre_crop(image, shortest, side, resample)), expected)


def test_a_thread_of_a_picture_costs_no_gigabytes() -> None:
    """CLIPImageProcessor would make 224 x 11,200,000,000 pixels of it. Of one that it can take, the
    middle is the same but for one pixel."""
    assert centre_crop(Image.new("RGB", (50_000_000, 1)), 224, 224).size == (224, 224)
    ramp = np.tile(np.linspace(0, 255, 3 * LONGEST)[None, :, None], (2, 1, 3)).astype(np.uint8)
    image = Image.fromarray(ramp)
    expected = seen_by(CLIPImageProcessorPil, image)
    assert abs(np.asarray(centre_crop(image, 224, 224), int) - expected).max() <= 1


class TestTokens:
    """With the model's own encoder, adapters and processor, which the tiny one has all of."""

    @pytest.fixture(
        params=[(16, Image.Resampling.BICUBIC), (24, Image.Resampling.BILINEAR)],
        ids=["16", "24 cut to 16, by another filter"],
    )
    def own(self, model: BaseModel, request: pytest.FixtureRequest) -> BaseModel:
        side = model.image_encoder.config.image_size
        shortest, resample = request.param
        processor = CLIPImageProcessorPil(
            size={"shortest_edge": shortest},
            crop_size={"height": side, "width": side},
            resample=resample,
        )
        return replace(model, image_processor=processor)

    @pytest.mark.parametrize("size", SIZES[1:15], ids=str)
    def test_they_are_those_of_the_processor(self, own: BaseModel, size: tuple[int, int]) -> None:
        conditioner, image = Conditioner(own), noise(size)
        expected = own.image_processor(image, return_tensors="pt").pixel_values
        view = conditioner.references.input.view(Reference(image=image))
        assert torch.equal(conditioner.references.input.clip_pixels(view), expected)
        [prompt] = [
            timed.prompt
            for timed in conditioner.references.prompts(
                GenerateRequest(references=(Reference(image=image),)),
                (64, 64),
                unconditional=None,
                record_attention=False,
            )
        ]
        adapter = next(iter(own.adapters.values()))
        embeds = adapter.embeds_from_clip_pixels(expected, own.image_encoder)
        assert torch.equal(prompt.tokens, adapter.tokens_from_embeds(embeds))
        unit = torch.nn.functional.normalize(own.image_encoder(expected).image_embeds, dim=-1)
        assert torch.equal(conditioner.references.image_embed(image), unit)

    @pytest.mark.parametrize("size", SIZES[1:6], ids=str)
    def test_the_processor_that_a_model_comes_with_is_two_levels_off_at_most(
        self, model: BaseModel, size: tuple[int, int]
    ) -> None:
        conditioner, image = Conditioner(model), noise(size)
        assert isinstance(model.image_processor, CLIPImageProcessor)
        expected = model.image_processor(image, return_tensors="pt").pixel_values
        found = conditioner.references.input.clip_pixels(
            conditioner.references.input.view(Reference(image=image))
        )
        assert (found - expected).abs().max() < 2.1 * ONE_LEVEL / min(
            model.image_processor.image_std
        )
