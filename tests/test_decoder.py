"""The recipe that gives the decoder back the detail of rendering."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file

from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.pipeline.inpainting.crop import mask_box
from ipadapter_demo.tabletop.erase import masks_over_first
from ipadapter_demo.tabletop.scene import partners_with_one_solid, sample_scenes
from ipadapter_demo.training.tabletop.decoder import (
    detail_inside,
    deviations,
    inpainted_latents,
    parts_around_first,
    train_decoder,
    variances,
)
from ipadapter_demo.training.tabletop.pictures import rendered_pictures
from tests.shipped import few_steps, shipped_with_own


def test_the_partner_of_a_scene_is_the_next_with_one_solid() -> None:
    scenes = sample_scenes(40, 3)
    partners = partners_with_one_solid(scenes)
    assert not scenes.present[partners, 1].any()
    for scene, partner in enumerate(partners.tolist()):
        between = range(scene + 1, partner if partner > scene else partner + 40)
        assert all(scenes.present[one % 40, 1] for one in between)
    pairs = scenes[scenes.present[:, 1].nonzero()[:, 0]]
    assert partners_with_one_solid(pairs).tolist() == [*range(1, len(pairs)), 0]


def test_variances_are_those_of_squares_of_three_pixels() -> None:
    pixels = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    squares = pixels.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4)
    assert torch.allclose(variances(pixels), squares.var(dim=-1, unbiased=False), atol=1e-6)
    flat = torch.full((1, 3, 12, 12), 0.3)
    assert deviations(flat).max() == pytest.approx(1e-2, abs=1e-3)  # the floor under the root
    mask = torch.zeros(2, 1, 12, 12)
    mask[:, :, 4:8, 4:8] = 1
    inside = squares.var(dim=-1, unbiased=False)[:, :, 3:7, 3:7].mean(dim=(1, 2, 3))
    assert torch.allclose(detail_inside(pixels, mask), (inside + 1e-4).sqrt(), atol=1e-6)


def test_a_part_around_the_first_solid_is_what_a_context_shows_of_a_mask() -> None:
    whole = sample_scenes(64, seed=5)
    scenes = parts_around_first(whole, seed=1)
    middle, half = scenes.view[:, :2], scenes.view[:, 2]
    assert (middle.abs() + half[:, None] <= 1 + 1e-6).all(), "inside the picture"
    side, masks = 128, masks_over_first(whole, 128)
    for mask, around, (x, y, reach) in zip(
        masks, masks_over_first(scenes, side), scenes.view.tolist(), strict=True
    ):
        corners = [(one + 1) / 2 * side for one in (x - reach, y - reach, x + reach, y + reach)]
        cut = np.asarray(mask.crop([round(one) for one in corners]).resize((side, side))) > 127
        drawn = np.asarray(around) > 0
        assert (cut & drawn).sum() > 0.85 * (cut | drawn).sum(), "the mask is the whole's, enlarged"
        left, upper, right, lower = mask_box(mask, 0.0)
        least = max(right - left, lower - upper) / side
        assert least - 0.05 < reach <= 1
        box = [(place / side * 2 - 1) for place in (left, upper, right, lower)]
        seen = (x - reach, y - reach, x + reach, y + reach)
        assert all(one >= other - 0.1 for one, other in zip(box[:2], seen[:2], strict=True))
        assert all(one <= other + 0.1 for one, other in zip(box[2:], seen[2:], strict=True))
    assert half.min() < 0.5
    assert half.max() > 0.95


def test_the_decoder_alone_goes_on_and_its_latents_are_those_of_inpainting(tmp_path: Path) -> None:
    out = shipped_with_own("vae", tmp_path)
    before = AutoencoderTiny.from_pretrained(TABLETOP.folder / "vae")
    pictures = rendered_pictures(tmp_path, 4)
    run = few_steps(tmp_path / "run", steps=1, batch=2, lr=1e-4, preview_every=1)
    found = train_decoder(run, pictures, pictures, out)
    assert found["detail_inside"] > 0.3
    assert found["psnr_db"] > 25
    after = load_file(out / "vae" / "diffusion_pytorch_model.safetensors")
    for name, old in before.state_dict().items():
        same = torch.equal(after[name].float(), old.half().float())
        assert same != name.startswith("decoder"), name

    latents, masks = inpainted_latents(
        pictures, pictures.scenes, TABLETOP.folder, run.folder / "whole", "cpu"
    )
    drawn = run.folder.glob("*/inpainted-4.pt")
    assert {path.parent.name for path in drawn} == {"whole", "parts"}
    shown = pictures.pixels(torch.arange(4))
    with torch.no_grad():
        decoded = before.decode(latents).sample
    error = (decoded - shown).abs().mean(dim=1, keepdim=True)
    outside = error[masks == 0].mean()
    assert outside < 0.05, "what is left of each picture stands around its mask"
    assert error[masks > 0].mean() > 2 * outside
