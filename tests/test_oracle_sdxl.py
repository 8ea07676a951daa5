"""Law 4 for SDXL: two text encoders, pooled text and size conditioning, through the same code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    MultiControlNetModel,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    T2IAdapter,
)
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from ipadapter_demo.imaging import mask_from_image
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.pipeline import ImagePromptPipeline, load
from ipadapter_demo.request import SAMPLERS, Inpaint, Sampler, Structure
from tests.oracle import ALIGNED, assert_same, loaded, pixels_of, reference, request, theirs
from tests.tiny import box_mask, picture, write_tiny_sdxl


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> CatalogEntry:
    return write_tiny_sdxl(tmp_path_factory.mktemp("models") / "tiny-xl")


def loaded_xl(kind: Any, entry: CatalogEntry, **parts: Any) -> Any:
    """The published folder has neither image encoder nor processor."""
    return loaded(
        kind,
        entry,
        **parts,
        image_encoder=CLIPVisionModelWithProjection.from_pretrained(entry.folder / "image_encoder"),
        feature_extractor=CLIPImageProcessor.from_pretrained(entry.folder / "feature_extractor"),
    )


@pytest.fixture(scope="module")
def xl(entry: CatalogEntry) -> BaseModel:
    return load(entry)._model


@pytest.fixture
def ours(xl: BaseModel, monkeypatch: pytest.MonkeyPatch) -> Any:
    return pixels_of(ImagePromptPipeline(xl), monkeypatch)


@pytest.mark.parametrize(("prompt", "negative"), [("a cube", "blur"), ("a cube", ""), ("", "")])
def test_text(ours: Any, entry: CatalogEntry, prompt: str, negative: str) -> None:
    """Law 1 as well. No negative prompt is zeros to SDXL, an empty one would not be, and an empty
    prompt is not."""
    oracle = loaded_xl(StableDiffusionXLPipeline, entry)
    expected = theirs(oracle, entry, prompt=prompt, negative_prompt=negative or None)
    texts = {"prompt": prompt, "negative_prompt": negative}
    assert_same(ours(request(**texts)), expected, tolerance=0)
    silent = request(**texts, references=(reference(),), image_scale=0)
    assert_same(ours(silent), expected, tolerance=0)


@pytest.mark.parametrize("adapter", ["base", "plus"])
def test_image(ours: Any, entry: CatalogEntry, adapter: str) -> None:
    oracle = loaded_xl(StableDiffusionXLPipeline, entry)
    expected = theirs(oracle, entry, scale=0.7, adapter=adapter, ip_adapter_image=reference().image)
    asked = request(references=(reference(),), image_scale=0.7, adapter=adapter)
    assert_same(ours(asked), expected)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler(ours: Any, entry: CatalogEntry, sampler: Sampler) -> None:
    oracle = loaded_xl(StableDiffusionXLPipeline, entry)
    expected = theirs(oracle, entry, sampler, scale=0.7, ip_adapter_image=reference().image)
    asked = request(sampler=sampler, references=(reference(),), image_scale=0.7)
    assert_same(ours(asked), expected)


def test_another_shape(ours: Any, entry: CatalogEntry) -> None:
    """The size conditioning follows it."""
    oracle = loaded_xl(StableDiffusionXLPipeline, entry)
    expected = theirs(
        oracle, entry, scale=0.7, ip_adapter_image=reference().image, width=72, height=88
    )
    asked = request(references=(reference(),), image_scale=0.7, width=72, height=88)
    assert_same(ours(asked), expected)


def test_masked_references(ours: Any, entry: CatalogEntry) -> None:
    oracle = loaded_xl(StableDiffusionXLPipeline, entry)
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


def test_edges_twice(ours: Any, entry: CatalogEntry) -> None:
    net = ControlNetModel.from_pretrained(entry.folder / "controlnet-canny")
    oracle = loaded_xl(
        StableDiffusionXLControlNetPipeline, entry, controlnet=MultiControlNetModel([net, net])
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


def test_palette_with_an_image_prompt(ours: Any, entry: CatalogEntry) -> None:
    net = T2IAdapter.from_pretrained(entry.folder / "t2i-palette")
    oracle = loaded_xl(StableDiffusionXLAdapterPipeline, entry, adapter=net)
    expected = theirs(
        oracle,
        entry,
        scale=0.7,
        ip_adapter_image=reference().image,
        image=picture(5),
        adapter_conditioning_scale=0.9,
    )
    structure = Structure(kind="palette", image=picture(5), weight=0.9)
    asked = request(references=(reference(),), image_scale=0.7, structures=(structure,))
    assert_same(ours(asked), expected)


@pytest.mark.parametrize(
    ("sampler", "strength"), [("dpm++", 1.0), *((sampler, 0.6) for sampler in SAMPLERS)]
)
def test_inpainting(ours: Any, entry: CatalogEntry, sampler: Sampler, strength: float) -> None:
    oracle = loaded_xl(StableDiffusionXLInpaintPipeline, entry)
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
    asked = request(sampler=sampler, references=(reference(),), image_scale=0.7, inpaint=inpaint)
    assert_same(ours(asked), expected)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_start_picture(ours: Any, entry: CatalogEntry, sampler: Sampler) -> None:
    oracle = loaded_xl(StableDiffusionXLImg2ImgPipeline, entry)
    given = {"image": picture(4), "strength": 0.6}
    expected = theirs(
        oracle, entry, sampler, scale=0.7, ip_adapter_image=reference().image, **given
    )
    asked = request(
        sampler=sampler,
        references=(reference(),),
        image_scale=0.7,
        init_image=picture(4),
        strength=0.6,
    )
    assert_same(ours(asked), expected)


def test_everything_at_once_is_the_sum_of_its_parts(ours: Any) -> None:
    """diffusers has no such combination: here laws stand in. Structure of weight 0 and references
    of weight 0 change nothing, and each of them changes something where it has weight."""
    inpaint = Inpaint(image=picture(4), mask=ALIGNED)
    edges = Structure(kind="canny", image=picture(3), weight=0.8)
    colours = Structure(kind="palette", image=picture(5), weight=0.9)
    whole = {
        "references": (reference(),),
        "image_scale": 0.7,
        "structures": (edges, colours),
        "inpaint": inpaint,
    }
    everything = ours(request(**whole))
    silent = Structure(kind="canny", image=picture(6), weight=0.0)
    assert_same(ours(request(**whole | {"structures": (edges, colours, silent)})), everything, 0)
    for without in ({"references": ()}, {"structures": (edges,)}, {"structures": (colours,)}):
        assert not torch.equal(ours(request(**whole | without)), everything)
