"""Law 4: whole images equal those of diffusers' own pipelines on the very same weights."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    MultiAdapter,
    MultiControlNetModel,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    T2IAdapter,
)

from ipadapter_demo.adapter import cross_attention_layers
from ipadapter_demo.imaging import mask_from_image
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.pipeline import ImagePromptPipeline, load
from ipadapter_demo.request import SAMPLERS, Inpaint, Sampler, Structure
from ipadapter_demo.sampling import FEW_STEP_SAMPLERS, NoiseSchedule, noise_schedules_of
from tests.oracle import (
    ALIGNED,
    COUNT,
    NOISE_LEVELS,
    PLAIN,
    assert_same,
    loaded,
    pixels_of,
    reference,
    request,
    theirs,
)
from tests.tiny import box_mask, picture, tiny_tabletop_unet


@pytest.fixture
def pipeline(model: BaseModel) -> ImagePromptPipeline:
    """Without the network that reads what is left around a mask: diffusers has none."""
    return ImagePromptPipeline(replace(model, inpaint_adapter=None))


@pytest.fixture
def ours(pipeline: ImagePromptPipeline, monkeypatch: pytest.MonkeyPatch) -> Any:
    """request -> float pixels (B, 3, H, W) in [0, 1], as they are before rounding and pasting."""
    return pixels_of(pipeline, monkeypatch)


@pytest.mark.parametrize("sampler", SAMPLERS)
class TestEverySampler:
    def test_text(self, ours: Any, entry: CatalogEntry, sampler: Sampler) -> None:
        """Law 1 as well: the base model, with no adapter anywhere near it, bit for bit."""
        plain = StableDiffusionPipeline.from_pretrained(entry.folder, local_files_only=True)
        assert_same(ours(request(sampler=sampler)), theirs(plain, entry, sampler), PLAIN)
        oracle = loaded(StableDiffusionPipeline, entry)
        expected = theirs(oracle, entry, sampler)
        assert_same(ours(request(sampler=sampler)), expected, tolerance=0)
        silent = request(sampler=sampler, references=(reference(),), image_scale=0)
        assert_same(ours(silent), expected, tolerance=0)

    def test_image(self, ours: Any, entry: CatalogEntry, sampler: Sampler) -> None:
        oracle = loaded(StableDiffusionPipeline, entry)
        expected = theirs(oracle, entry, sampler, scale=0.7, ip_adapter_image=reference().image)
        assert_same(
            ours(request(sampler=sampler, references=(reference(),), image_scale=0.7)), expected
        )

    def test_edges(self, ours: Any, entry: CatalogEntry, sampler: Sampler) -> None:
        net = ControlNetModel.from_pretrained(entry.folder / "controlnet-canny")
        oracle = loaded(StableDiffusionControlNetPipeline, entry, controlnet=net)
        expected = theirs(
            oracle,
            entry,
            sampler,
            scale=0.7,
            ip_adapter_image=reference().image,
            image=picture(3),
            controlnet_conditioning_scale=0.8,
            control_guidance_start=0.2,
            control_guidance_end=0.9,
        )
        structure = Structure(kind="canny", image=picture(3), weight=0.8, window=(0.2, 0.9))
        asked = request(
            sampler=sampler, references=(reference(),), image_scale=0.7, structures=(structure,)
        )
        assert_same(ours(asked), expected)

    @pytest.mark.parametrize("strength", [1.0, 0.6])
    def test_inpainting(
        self, ours: Any, entry: CatalogEntry, sampler: Sampler, strength: float
    ) -> None:
        """Compared before the paste, which diffusers does not do."""
        oracle = loaded(StableDiffusionInpaintPipeline, entry)
        expected = theirs(
            oracle,
            entry,
            sampler,
            scale=0.7,
            ip_adapter_image=reference().image,
            image=picture(4),
            mask_image=ALIGNED,
            height=64,
            width=64,
            strength=strength,
        )
        inpaint = Inpaint(image=picture(4), mask=ALIGNED, strength=strength)
        asked = request(
            sampler=sampler, references=(reference(),), image_scale=0.7, inpaint=inpaint
        )
        assert_same(ours(asked), expected)

    def test_start_picture(self, ours: Any, entry: CatalogEntry, sampler: Sampler) -> None:
        oracle = loaded(StableDiffusionImg2ImgPipeline, entry)
        expected = theirs(
            oracle,
            entry,
            sampler,
            scale=0.7,
            ip_adapter_image=reference().image,
            image=picture(4),
            strength=0.6,
        )
        asked = request(
            sampler=sampler,
            references=(reference(),),
            image_scale=0.7,
            init_image=picture(4),
            strength=0.6,
        )
        assert_same(ours(asked), expected)


@pytest.mark.parametrize("steps", [1, 2, 8])
@pytest.mark.parametrize("sampler", FEW_STEP_SAMPLERS)
def test_few_steps_without_guidance(
    ours: Any, entry: CatalogEntry, sampler: Sampler, steps: int
) -> None:
    oracle = loaded(StableDiffusionPipeline, entry)
    few = {"num_inference_steps": steps, "guidance_scale": 1.0}
    expected = theirs(oracle, entry, sampler, scale=0.7, ip_adapter_image=reference().image, **few)
    asked = request(
        sampler=sampler, references=(reference(),), image_scale=0.7, steps=steps, guidance=1.0
    )
    assert_same(ours(asked), expected)


@pytest.mark.parametrize(
    ("sampler", "noise_schedule"),
    [(name, other) for name in SAMPLERS for other in noise_schedules_of(name)[1:]],
)
class TestEveryNoiseSchedule:
    STEPS = 9  # of which Karras rounds several to one timestep

    def test_text(
        self, ours: Any, entry: CatalogEntry, sampler: Sampler, noise_schedule: NoiseSchedule
    ) -> None:
        oracle = loaded(StableDiffusionPipeline, entry)
        levels = NOISE_LEVELS[noise_schedule]
        expected = theirs(
            oracle, entry, sampler, noise_levels=levels, num_inference_steps=self.STEPS
        )
        asked = request(sampler=sampler, noise_schedule=noise_schedule, steps=self.STEPS)
        assert_same(ours(asked), expected, tolerance=0)

    def test_inpainting(
        self, ours: Any, entry: CatalogEntry, sampler: Sampler, noise_schedule: NoiseSchedule
    ) -> None:
        """Where the given picture is noised anew at every level."""
        oracle = loaded(StableDiffusionInpaintPipeline, entry)
        expected = theirs(
            oracle,
            entry,
            sampler,
            noise_levels=NOISE_LEVELS[noise_schedule],
            num_inference_steps=self.STEPS,
            image=picture(4),
            mask_image=ALIGNED,
            height=64,
            width=64,
            strength=0.6,
        )
        asked = request(
            sampler=sampler,
            noise_schedule=noise_schedule,
            steps=self.STEPS,
            inpaint=Inpaint(image=picture(4), mask=ALIGNED, strength=0.6),
        )
        assert_same(ours(asked), expected)


def test_edges_twice(ours: Any, entry: CatalogEntry) -> None:
    net = ControlNetModel.from_pretrained(entry.folder / "controlnet-canny")
    oracle = loaded(
        StableDiffusionControlNetPipeline, entry, controlnet=MultiControlNetModel([net, net])
    )
    expected = theirs(
        oracle,
        entry,
        scale=0.7,
        ip_adapter_image=reference().image,
        image=[picture(3), picture(6)],
        controlnet_conditioning_scale=[0.8, 0.3],
    )
    structures = (
        Structure(kind="canny", image=picture(3), weight=0.8),
        Structure(kind="canny", image=picture(6), weight=0.3),
    )
    asked = request(references=(reference(),), image_scale=0.7, structures=structures)
    assert_same(ours(asked), expected)


def test_palette(ours: Any, entry: CatalogEntry) -> None:
    """diffusers cannot combine a T2I-Adapter with an IP-Adapter, so alone."""
    net = T2IAdapter.from_pretrained(entry.folder / "t2i-palette")
    oracle = loaded(StableDiffusionAdapterPipeline, entry, adapter=net)
    latents = theirs(
        oracle, entry, image=picture(5), adapter_conditioning_scale=0.9, output_type="latent"
    )  # it has no other that is a tensor
    expected = (oracle.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    structure = Structure(kind="palette", image=picture(5), weight=0.9)
    assert_same(ours(request(structures=(structure,))), expected)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_several_t2i_adapters_are_a_weighted_sum(
    ours: Any, entry: CatalogEntry, order: tuple[int, int]
) -> None:
    """As their paper adds them (arXiv 2302.08453, section 3.2), in whatever order they are read."""
    nets = [T2IAdapter.from_pretrained(entry.folder / "t2i-palette") for _ in range(2)]
    oracle = loaded(StableDiffusionAdapterPipeline, entry, adapter=MultiAdapter(nets))
    given = [picture(5), picture(6)]
    weights = [0.9, 0.4]
    latents = theirs(
        oracle, entry, image=given, adapter_conditioning_scale=weights, output_type="latent"
    )
    expected = (oracle.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    structures = [
        Structure(kind="palette", image=image, weight=weight)
        for image, weight in zip(given, weights, strict=True)
    ]
    asked = request(structures=tuple(structures[i] for i in order))
    assert_same(ours(asked), expected)


def test_without_guidance(ours: Any, entry: CatalogEntry) -> None:
    oracle = loaded(StableDiffusionPipeline, entry)
    expected = theirs(
        oracle, entry, scale=1.0, ip_adapter_image=reference().image, guidance_scale=1.0
    )
    assert_same(ours(request(references=(reference(),), guidance=1.0)), expected)


def test_two_references_share_one_softmax(ours: Any, entry: CatalogEntry) -> None:
    oracle = loaded(StableDiffusionPipeline, entry)
    pair = (reference(1), reference(2))
    expected = theirs(oracle, entry, scale=0.7, ip_adapter_image=[[r.image for r in pair]])
    assert_same(ours(request(references=pair, image_scale=0.7)), expected)


def test_masked_references_have_their_own_regions(ours: Any, entry: CatalogEntry) -> None:
    oracle = loaded(StableDiffusionPipeline, entry)
    masks = [box_mask((0, 0, 32, 64)), box_mask((32, 0, 64, 64))]
    pair = tuple(reference(i, mask=mask, weight=0.5 + i) for i, mask in enumerate(masks))
    expected = theirs(
        oracle,
        entry,
        scale=[[0.5, 1.5]],
        ip_adapter_image=[[r.image for r in pair]],
        cross_attention_kwargs={
            "ip_adapter_masks": [torch.cat([mask_from_image(m) for m in masks], dim=1)]
        },
    )
    assert_same(ours(request(references=pair, image_scale=1.0)), expected)


def test_a_negative_reference_takes_the_empty_picture_s_place(
    ours: Any, entry: CatalogEntry
) -> None:
    oracle = loaded(StableDiffusionPipeline, entry)
    pair = (reference(1), reference(2, negative=True))
    pixels = oracle.feature_extractor([r.image for r in pair], return_tensors="pt").pixel_values
    positive, negative = oracle.image_encoder(pixels).image_embeds.chunk(2)
    expected = theirs(
        oracle, entry, scale=0.7, ip_adapter_image_embeds=[torch.stack([negative, positive])]
    )
    assert_same(ours(request(references=pair, image_scale=0.7)), expected)


@pytest.fixture(scope="module")
def nine(entry: CatalogEntry, tmp_path_factory: pytest.TempPathFactory) -> CatalogEntry:
    """The same model with a UNet trained for inpainting: it sees the mask and what is left."""
    folder = tmp_path_factory.mktemp("models") / "nine"
    shutil.copytree(entry.folder, folder)
    tiny_tabletop_unet(in_channels=9).save_pretrained(folder / "unet")
    return replace(entry, folder=folder, inpaint_adapter=None)


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_a_unet_trained_for_inpainting(
    nine: CatalogEntry, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = loaded(StableDiffusionInpaintPipeline, nine)
    expected = theirs(
        oracle,
        nine,
        scale=0.7,
        ip_adapter_image=reference().image,
        image=picture(4),
        mask_image=ALIGNED,
        height=64,
        width=64,
        strength=strength,
    )
    inpaint = Inpaint(image=picture(4), mask=ALIGNED, strength=strength)
    asked = request(references=(reference(),), image_scale=0.7, inpaint=inpaint)
    ours = pixels_of(load(nine), monkeypatch)
    assert_same(ours(asked), expected)
    assert ours(request()).shape == expected.shape  # and it draws without a mask


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_base_that_predicts_velocity(
    entry: CatalogEntry, sampler: Sampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(entry.folder, tmp_path / "v")
    DDIMScheduler.from_pretrained(
        tmp_path / "v" / "scheduler", prediction_type="v_prediction"
    ).save_pretrained(tmp_path / "v" / "scheduler")
    velocity = replace(entry, folder=tmp_path / "v")
    oracle = loaded(StableDiffusionPipeline, velocity)
    expected = theirs(oracle, velocity, sampler, guidance_rescale=0.7)
    ours = pixels_of(load(velocity), monkeypatch)
    assert_same(ours(request(sampler=sampler, guidance_rescale=0.7)), expected)
    told = pixels_of(load(entry, prediction_type="v_prediction"), monkeypatch)
    assert_same(told(request(sampler=sampler, guidance_rescale=0.7)), expected, 0)


def test_rescaled_guidance(ours: Any, entry: CatalogEntry) -> None:
    oracle = loaded(StableDiffusionPipeline, entry)
    expected = theirs(oracle, entry, guidance_rescale=0.7)
    assert_same(ours(request(guidance_rescale=0.7)), expected)


@pytest.mark.parametrize("fit", [None, 0.5])
def test_a_factor_for_each_layer(ours: Any, entry: CatalogEntry, fit: float | None) -> None:
    oracle = loaded(StableDiffusionPipeline, entry)
    names = list(cross_attention_layers(oracle.unet))
    factors = tuple(float(name.startswith("up_blocks.0")) for name in names)
    expected = theirs(
        oracle,
        entry,
        scale={"up": {"block_0": [fit or 1.0] * 2}},
        ip_adapter_image=reference().image,
    )
    layered = request(references=(reference(),), image_scale=fit or 1.0, image_layers=factors)
    assert_same(ours(layered), expected)


def test_a_reference_for_one_image_of_the_batch(ours: Any) -> None:
    """Each image as if it had been asked for with its own references alone."""
    pair = (reference(1, only_image=0), reference(2, only_image=1))
    together = ours(request(references=pair, image_scale=0.7))
    for i in range(COUNT):
        alone = ours(request(references=(reference(i + 1),), image_scale=0.7, count=COUNT))
        assert_same(together[i], alone[i])


def test_plus(ours: Any, entry: CatalogEntry) -> None:
    oracle = loaded(StableDiffusionPipeline, entry)
    expected = theirs(oracle, entry, scale=0.7, adapter="plus", ip_adapter_image=reference().image)
    plus = request(references=(reference(),), image_scale=0.7, adapter="plus")
    assert_same(ours(plus), expected)


def test_another_shape(ours: Any, entry: CatalogEntry) -> None:
    """Latents of 18 x 22 cells: sides that the UNet has to halve rounding up."""
    oracle = loaded(StableDiffusionPipeline, entry)
    expected = theirs(
        oracle, entry, scale=0.7, ip_adapter_image=reference().image, width=72, height=88
    )
    assert_same(
        ours(request(references=(reference(),), image_scale=0.7, width=72, height=88)), expected
    )
