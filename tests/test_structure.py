"""Structure networks as people have them: global pooling, one channel or three, every class of
T2I-Adapter. Whole images equal those of diffusers' own pipelines on the very same weights."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    MultiControlNetModel,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetPipeline,
    T2IAdapter,
)
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from ipadapter_demo.adapter import save_image_adapter
from ipadapter_demo.errors import ModelError, RequestError
from ipadapter_demo.models.catalog import CatalogEntry, StructureEntry
from ipadapter_demo.models.map_embedding import embedded
from ipadapter_demo.models.structure import T2IAdapterStructure
from ipadapter_demo.pipeline import load
from ipadapter_demo.request import Inpaint, Structure
from tests.oracle import assert_same, loaded, pixels_of, reference, request, theirs
from tests.published import tiny_kl, tiny_sd15_unet
from tests.tiny import (
    box_mask,
    picture,
    randomise,
    seeded,
    tiny_adapter,
    tiny_controlnet,
    tiny_entry,
    tiny_pipeline,
    tiny_sdxl_unet,
    tiny_tabletop_unet,
    write_tiny_sdxl,
)

SHUFFLE = Structure(kind="shuffle", image=picture(3), weight=0.8)
EDGES = Structure(kind="canny", image=picture(6), weight=0.3)


def with_structure(entry: CatalogEntry, kind: str, network: Any, folder: Path) -> CatalogEntry:
    net = StructureEntry(folder=str(folder), network=network, annotators=("none",))
    return replace(entry, structures=entry.structures | {kind: net})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = tiny_controlnet(tiny_tabletop_unet(), seed=15)
    net.register_to_config(global_pool_conditions=True)
    folder = tmp_path_factory.mktemp("models") / "controlnet-shuffle"
    net.save_pretrained(folder)
    return folder


@pytest.fixture
def pooled(entry: CatalogEntry, folder: Path) -> CatalogEntry:
    return with_structure(entry, "shuffle", "controlnet", folder)


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> CatalogEntry:
    """The topology that the published networks of SD 1.5 are made for."""
    folder = tmp_path_factory.mktemp("models") / "sd15"
    unet = tiny_sd15_unet()
    pipeline = tiny_pipeline(unet)
    pipeline.vae = tiny_kl()
    pipeline.scheduler = DDIMScheduler(clip_sample=False, steps_offset=1)
    pipeline.save_pretrained(folder)
    save_image_adapter(tiny_adapter(unet), folder / "ip-adapter.safetensors")
    return replace(tiny_entry("tiny-sd15", folder), structures={})


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> CatalogEntry:
    return write_tiny_sdxl(tmp_path_factory.mktemp("models") / "xl")


class TestGlobalPool:
    """ControlNet "shuffle": its residuals do not reach the unconditional half of guidance."""

    @pytest.mark.parametrize("guidance", [3.0, 1.0])
    @pytest.mark.parametrize("with_image", [False, True])
    def test_as_diffusers(
        self,
        pooled: CatalogEntry,
        folder: Path,
        guidance: float,
        with_image: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        net = ControlNetModel.from_pretrained(folder)
        oracle = loaded(StableDiffusionControlNetPipeline, pooled, controlnet=net)
        image = {"scale": 0.7, "ip_adapter_image": reference().image} if with_image else {}
        expected = theirs(
            oracle,
            pooled,
            image=picture(3),
            controlnet_conditioning_scale=0.8,
            guidance_scale=guidance,
            **image,
        )
        asked = request(
            structures=(SHUFFLE,),
            guidance=guidance,
            image_scale=0.7,
            references=(reference(),) if with_image else (),
        )
        assert_same(pixels_of(load(pooled), monkeypatch)(asked), expected)

    def test_beside_an_ordinary_network(
        self, pooled: CatalogEntry, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each network by its own configuration. diffusers asks the first of several alone, so
        there the ordinary one stands first and the other one keeps off the unconditional half."""

        class Conditional(ControlNetModel):
            def forward(self, *arguments: Any, **options: Any) -> Any:
                skips, middle = super().forward(*arguments, **options)
                for half in (*skips, middle):
                    half[: len(half) // 2] = 0
                return skips, middle

        nets = MultiControlNetModel(
            [
                ControlNetModel.from_pretrained(pooled.folder / "controlnet-canny"),
                Conditional.from_pretrained(folder),
            ]
        )
        oracle = loaded(StableDiffusionControlNetPipeline, pooled, controlnet=nets)
        expected = theirs(
            oracle,
            pooled,
            scale=0.7,
            ip_adapter_image=reference().image,
            image=[picture(6), picture(3)],
            controlnet_conditioning_scale=[0.3, 0.8],
        )
        ours = pixels_of(load(pooled), monkeypatch)
        for structures in ((EDGES, SHUFFLE), (SHUFFLE, EDGES)):
            asked = request(structures=structures, references=(reference(),), image_scale=0.7)
            assert_same(ours(asked), expected)

    def test_requests_that_share_calls(self, pooled: CatalogEntry) -> None:
        """Each gets what it would get alone, where another has another map and number of images."""
        pipeline = load(pooled)
        requests = [
            request(structures=(replace(SHUFFLE, image=picture(i)),), count=i, seed=i)
            for i in (1, 2)
        ]
        alone = [pipeline.generate(one).images for one in requests]
        first, second = pipeline.generate_all(requests, share=2)
        for result, images in zip((first, second), alone, strict=True):
            for one, other in zip(result.images, images, strict=True):
                assert np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max() <= 1

    def test_it_does_not_run_for_that_half(self, pooled: CatalogEntry) -> None:
        pipeline, rows = load(pooled), []
        net = pipeline._model.structures["shuffle"].net
        net.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
        pipeline.generate(request(structures=(SHUFFLE,), steps=2, count=2))
        assert rows == [2, 2]

    def test_sdxl(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The size conditioning as well goes with the conditional rows."""
        xl = write_tiny_sdxl(tmp_path / "xl")
        net = tiny_controlnet(tiny_sdxl_unet(), seed=15)
        net.register_to_config(global_pool_conditions=True)
        net.save_pretrained(tmp_path / "shuffle")
        oracle = loaded(StableDiffusionXLControlNetPipeline, xl, controlnet=net)
        expected = theirs(oracle, xl, image=picture(3), controlnet_conditioning_scale=0.8)
        entry = with_structure(xl, "shuffle", "controlnet", tmp_path / "shuffle")
        assert_same(pixels_of(load(entry), monkeypatch)(request(structures=(SHUFFLE,))), expected)


def t2i_adapter(
    adapter_type: str, channels: list[int], in_channels: int, factor: int
) -> T2IAdapter:
    with seeded(16):
        net = T2IAdapter(
            in_channels,
            channels,
            num_res_blocks=1,
            downscale_factor=factor,
            adapter_type=adapter_type,
        )
        randomise(net)
    return net.eval().requires_grad_(False)


class TestT2IAdapter:
    """A map with one channel is grey as in the examples of diffusers: `image.convert("L")`."""

    @pytest.mark.parametrize("size", [(64, 64), (72, 88)])
    @pytest.mark.parametrize("in_channels", [1, 3])
    @pytest.mark.parametrize("adapter_type", ["full_adapter", "light_adapter"])
    def test_sd15(
        self,
        sd15: CatalogEntry,
        adapter_type: str,
        in_channels: int,
        size: tuple[int, int],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        widths = [8, 16, 24] if adapter_type == "light_adapter" else [8, 16, 24, 24]
        net = t2i_adapter(adapter_type, widths, in_channels, factor=8)
        net.save_pretrained(tmp_path / "net")
        drawn = picture(5, *size)
        width, height = size
        oracle = loaded(StableDiffusionAdapterPipeline, sd15, adapter=net)
        latents = theirs(
            oracle,
            sd15,
            image=drawn.convert("L") if in_channels == 1 else drawn,
            width=width,
            height=height,
            adapter_conditioning_scale=0.9,
            output_type="latent",
        )  # it has no other that is a tensor
        scaled = latents / oracle.vae.config.scaling_factor
        expected = (oracle.vae.decode(scaled).sample / 2 + 0.5).clamp(0, 1)
        entry = with_structure(sd15, "map", "t2i-adapter", tmp_path / "net")
        asked = request(
            structures=(Structure(kind="map", image=drawn, weight=0.9),), width=width, height=height
        )
        assert_same(pixels_of(load(entry), monkeypatch)(asked), expected)

    @pytest.mark.parametrize("widths", [[8, 16, 24], [8, 16, 24, 24]], ids=["blocks", "and middle"])
    @pytest.mark.parametrize("in_channels", [1, 3])
    def test_sdxl(
        self,
        xl: CatalogEntry,
        in_channels: int,
        widths: list[int],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The published ones have features for the middle block too."""
        net = t2i_adapter("full_adapter_xl", widths, in_channels, factor=8)
        net.save_pretrained(tmp_path / "net")
        oracle = loaded(
            StableDiffusionXLAdapterPipeline,
            xl,
            adapter=net,
            image_encoder=CLIPVisionModelWithProjection.from_pretrained(
                xl.folder / "image_encoder"
            ),
            feature_extractor=CLIPImageProcessor.from_pretrained(xl.folder / "feature_extractor"),
        )
        drawn = picture(5)
        expected = theirs(
            oracle,
            xl,
            image=drawn.convert("L") if in_channels == 1 else drawn,
            scale=0.7,
            ip_adapter_image=reference().image,
            adapter_conditioning_scale=0.9,
        )
        entry = with_structure(xl, "map", "t2i-adapter", tmp_path / "net")
        asked = request(
            structures=(Structure(kind="map", image=drawn, weight=0.9),),
            references=(reference(),),
            image_scale=0.7,
        )
        assert_same(pixels_of(load(entry), monkeypatch)(asked), expected)

    def test_two_of_which_one_has_features_for_the_middle_block(
        self, xl: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """diffusers takes no two of such; at a weight of 0 the other one adds nothing."""
        entry = xl
        for name, widths in (("three", [8, 16, 24]), ("four", [8, 16, 24, 24])):
            net = t2i_adapter("full_adapter_xl", widths, 3, factor=8)
            net.save_pretrained(tmp_path / name)
            entry = with_structure(entry, name, "t2i-adapter", tmp_path / name)
        pipeline, drawn = load(entry), picture(5)
        three, four = (Structure(kind=kind, image=drawn, weight=0.9) for kind in ("three", "four"))
        draw = pixels_of(pipeline, monkeypatch)
        alone, both = draw(request(structures=(four,))), draw(request(structures=(three, four)))
        with_nothing = draw(request(structures=(replace(three, weight=0.0), four)))
        assert torch.equal(alone, with_nothing)
        assert (both - alone).abs().max() > 0.01
        assert_same(draw(request(structures=(four, three))), both)

    def test_sides_that_are_no_multiple_of_its_factor(
        self, xl: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SDXL's is 16, sides are multiples of 8; diffusers is given the map with its last column
        repeated."""
        net = t2i_adapter("full_adapter_xl", [8, 16, 24], 3, factor=16)
        net.save_pretrained(tmp_path / "net")
        shutil.copytree(xl.folder, tmp_path / "xl")
        tiny_kl().save_pretrained(tmp_path / "xl" / "vae")
        eight = replace(xl, folder=tmp_path / "xl", structures={})  # those are for cells of 4
        drawn = picture(5, 72, 64)
        pixels = torch.from_numpy(np.array(drawn)).permute(2, 0, 1)[None] / 255
        longer = torch.cat([pixels, pixels[..., -1:].expand(-1, -1, -1, 8)], dim=-1)
        oracle = loaded(StableDiffusionXLAdapterPipeline, eight, adapter=net, vae=tiny_kl())
        expected = theirs(
            oracle, eight, image=longer, adapter_conditioning_scale=0.9, width=72, height=64
        )
        entry = with_structure(eight, "map", "t2i-adapter", tmp_path / "net")
        asked = request(
            structures=(Structure(kind="map", image=drawn, weight=0.9),), width=72, height=64
        )
        assert_same(pixels_of(load(entry), monkeypatch)(asked), expected)

    def test_grey_is_pillow_s(self) -> None:
        """Every level of every channel, to the very bit."""
        colours = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        image = Image.fromarray(colours)
        seen: list[Tensor] = []

        class Net:
            config = type("Config", (), {"in_channels": 1})
            downscale_factor, device, dtype = 8, "cpu", torch.float32

            def __call__(self, pixels: Tensor) -> list[Tensor]:
                seen.append(pixels)
                return []

        T2IAdapterStructure(Net()).read(  # type: ignore[arg-type]
            torch.from_numpy(colours).permute(2, 0, 1)[None] / 255
        )
        expected = torch.from_numpy(np.array(image.convert("L"))) / 255
        torch.testing.assert_close(seen[0][0, 0], expected, rtol=0, atol=0)

    @pytest.mark.parametrize(
        ("network", "message"),
        [
            (
                "t2i-adapter",
                "structure map: the T2I-Adapter reads 4 channels of a map, must be 1 or 3",
            ),
            (
                "controlnet",
                "structure map: the ControlNet reads 5 channels of a map, must be 1 or 3",
            ),
        ],
    )
    def test_other_channels_are_refused_when_it_is_loaded(
        self, xl: CatalogEntry, network: str, message: str, tmp_path: Path
    ) -> None:
        if network == "controlnet":
            net: Any = ControlNetModel.from_unet(
                tiny_sdxl_unet(),
                conditioning_channels=5,
                conditioning_embedding_out_channels=(8, 8, 8),
            )
        else:
            net = t2i_adapter("full_adapter_xl", [8, 16, 24], 4, factor=8)
        net.save_pretrained(tmp_path / "net")
        with pytest.raises(ModelError, match=message):
            load(with_structure(xl, "map", network, tmp_path / "net"))


def test_a_network_for_inpainting_reads_the_hole_as_minus_one(entry: CatalogEntry) -> None:
    """As ControlNet 1.1's authors mark it, and diffusers' example of it does."""
    own = entry.folder / "controlnet-canny"
    pipeline = load(entry, device="cpu", controlnets=(("inpaint", own),))
    shown, mask = picture(3), box_mask((16, 16, 48, 48))
    structure = Structure(kind="inpaint", image=shown)
    given = Inpaint(image=shown, mask=mask)
    expected = np.asarray(shown, np.float32) / 255
    expected[np.asarray(mask) > 127] = -1.0
    reader = pipeline._conditioner.maps
    condition = reader.control(structure, shown, given).condition
    [seen] = condition.seen
    pixels = torch.from_numpy(expected).permute(2, 0, 1)[None]
    assert torch.allclose(seen, embedded(condition.net.net, pixels), atol=1e-6)
    other = replace(given, mask=box_mask((0, 0, 16, 16)))
    [next_one] = reader.control(structure, shown, other).condition.seen
    assert not torch.equal(next_one, seen)
    with pytest.raises(RequestError, match="structure inpaint reads a mask, so it needs inpaint"):
        reader.control(structure, shown)
