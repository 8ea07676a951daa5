"""`force_upcast` of an autoencoder's configuration, honoured both ways, as diffusers does it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from torch import Tensor

from ipadapter_demo.imaging import pixels_from_images
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.packed import pack
from ipadapter_demo.models.vae import VAE
from ipadapter_demo.pipeline import ImagePromptPipeline, load
from tests.oracle import assert_same, loaded, pixels_of, request, theirs
from tests.tiny import noise, picture, seeded, write_tiny_model, write_tiny_sdxl

PIXELS = pixels_from_images([picture(1), picture(2)])
LATENTS = noise(3, 2, 4, 16, 16)


def overflowing(force_upcast: bool, factor: float = 2e5) -> AutoencoderKL:
    """Its first layers give more than float16 holds, 65,504; the norms at the end cancel that."""
    with seeded(31):
        vae = (
            AutoencoderKL(
                block_out_channels=(4, 8, 8),
                norm_num_groups=4,
                scaling_factor=0.5,
                latent_channels=4,
                layers_per_block=1,
                force_upcast=force_upcast,
                down_block_types=("DownEncoderBlock2D",) * 3,
                up_block_types=("UpDecoderBlock2D",) * 3,
            )
            .eval()
            .requires_grad_(False)
        )
    for part in (vae.encoder, vae.decoder):
        part.conv_in.weight.mul_(factor)
        part.conv_in.bias.mul_(factor)
    return vae


def precisions(vae: AutoencoderKL) -> dict[str, list[torch.dtype]]:
    """Of every call of its halves."""
    seen: dict[str, list[torch.dtype]] = {"encoder": [], "decoder": []}
    for name, found in seen.items():
        getattr(vae, name).register_forward_pre_hook(
            lambda _, arguments, found=found: found.append(arguments[0].dtype)
        )
    return seen


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_one_that_says_so_encodes_in_float32(dtype: torch.dtype) -> None:
    vae = overflowing(force_upcast=True).to(dtype)
    seen, weights = precisions(vae), vae.state_dict()
    found = VAE(vae).latents_from_pixels(PIXELS)
    assert (found.dtype, seen["encoder"]) == (dtype, [torch.float32])
    expected = vae.float().encode(PIXELS).latent_dist.mode().to(dtype) * 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert all(
        torch.equal(weight, weights[name]) for name, weight in vae.to(dtype).state_dict().items()
    ), "there and back"


@pytest.mark.parametrize(
    ("dtype", "used"), [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)]
)
def test_and_decodes_so_where_it_rests_in_float16(dtype: torch.dtype, used: torch.dtype) -> None:
    vae = overflowing(force_upcast=True).to(dtype)
    seen = precisions(vae)
    pixels = VAE(vae).pixels_from_latents(LATENTS.to(dtype))
    assert pixels.isfinite().all()
    assert (seen["decoder"], vae.dtype) == ([used], dtype)


def test_one_that_says_it_need_not_never_does() -> None:
    vae = overflowing(force_upcast=False, factor=1.0).half()
    seen, vae = precisions(vae), VAE(vae)
    assert vae.latents_from_pixels(PIXELS).isfinite().all()
    assert vae.pixels_from_latents(LATENTS.half()).isfinite().all()
    assert seen == {"encoder": [torch.float16], "decoder": [torch.float16]}


def test_unless_it_overflows_all_the_same() -> None:
    vae = overflowing(force_upcast=False).half()
    found = VAE(vae).latents_from_pixels(PIXELS)
    expected = vae.float().encode(PIXELS).latent_dist.mode().half() * 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> CatalogEntry:
    """SDXL in small, with an autoencoder that overflows in float16 and says so."""
    base = write_tiny_sdxl(tmp_path_factory.mktemp("models") / "xl")
    shutil.rmtree(base.folder / "vae")
    overflowing(force_upcast=True).save_pretrained(base.folder / "vae")
    return base


class TestAsDiffusersInFloat16:
    """Half precision is not exact: pixels in [0, 1] agree to half a grey level."""

    @pytest.fixture
    def ours(self, xl: CatalogEntry, monkeypatch: pytest.MonkeyPatch) -> Any:
        return pixels_of(load(xl, dtype="float16"), monkeypatch)

    def oracle(self, kind: Any, xl: CatalogEntry, **parts: Any) -> Any:
        return loaded(
            kind,
            xl,
            dtype=torch.float16,
            vae=overflowing(True).half(),
            **parts,
            image_encoder=None,
            feature_extractor=None,
        )

    @pytest.mark.filterwarnings("ignore:`?upcast_vae:FutureWarning")
    def test_text(self, ours: Any, xl: CatalogEntry) -> None:
        expected = theirs(self.oracle(StableDiffusionXLPipeline, xl), xl)
        assert expected.isfinite().all()
        assert_same(ours(request()).float(), expected.float(), tolerance=2e-3)

    @pytest.mark.filterwarnings("ignore:`?upcast_vae:FutureWarning")
    def test_start_picture(
        self, ours: Any, xl: CatalogEntry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        oracle = self.oracle(StableDiffusionXLImg2ImgPipeline, xl)
        monkeypatch.setattr(  # diffusers draws a sample; ours is the mode
            "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img."
            "retrieve_latents",
            lambda encoded, generator: encoded.latent_dist.mode(),
        )
        expected = theirs(oracle, xl, image=picture(4), strength=0.6)
        asked = request(init_image=picture(4), strength=0.6)
        assert_same(ours(asked).float(), expected.float(), tolerance=2e-3)


def test_what_is_inpainted_is_encoded_in_float32(xl: CatalogEntry) -> None:
    pipeline = load(xl, dtype="float16")
    pixels = pixels_from_images([picture(4)])
    ours: Tensor = pipeline._conditioner.latents.encode(pixels)
    theirs = overflowing(True).half().float()
    pack(theirs.requires_grad_(False))
    with torch.no_grad():
        expected = theirs.encode(pixels).latent_dist.mode().half() * 0.5
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_the_built_in_model_decodes_and_encodes_in_parts() -> None:
    """Its factor is 4, where diffusers takes 8 for every tiny autoencoder."""
    whole, parts = (
        load("tabletop", device="cpu", dtype="float32", tiling=tiling)._model.vae
        for tiling in (False, True)
    )
    for side in (32, 160):  # the second is larger than a part
        latents = 0.3 * noise(1, 1, 4, side, side)
        ours, theirs = (vae.pixels_from_latents(latents) for vae in (parts, whole))
        assert ours.shape == theirs.shape == (1, 3, 4 * side, 4 * side)
        assert (ours - theirs).abs().mean() < 0.02
        seen, expected = (vae.latents_from_pixels(theirs) for vae in (parts, whole))
        assert seen.shape == expected.shape
        assert (seen - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_sd15_s_pipelines_do_not_ask(tmp_path: Path) -> None:
    """Its published autoencoder does not overflow, and its configuration does not say: what it
    does not say diffusers fills in as true."""
    entry = replace(write_tiny_model(tmp_path / "sd15"), inpaint_adapter=None)
    shutil.rmtree(entry.folder / "vae")
    overflowing(force_upcast=True, factor=1.0).save_pretrained(entry.folder / "vae")
    pipeline: ImagePromptPipeline = load(entry, dtype="float16")
    seen = precisions(pipeline._model.vae.autoencoder)
    pipeline.generate(request(init_image=picture(4), steps=2, count=1))
    assert seen == {"encoder": [torch.float16], "decoder": [torch.float16]}
