"""VAE decoder recipe: what was denoised is decoded with as much detail as a rendered picture has.

Denoised latents are softer than encoded ones, and the loss of `vae` makes the mean of all that a
latent may stand for. Here the decoder goes on alone, with both kinds of latents of the same scenes.
What is encoded has to come back; what was denoised keeps its colours and places, which are the
model's own; and pixels deviate from their neighbours as much as rendered ones. Half of the
pictures are parts of scenes, enlarged, as a mask in a larger picture shows them. The encoder
stays, and so do the latents that all other parts were trained on.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor
from torchvision.utils import save_image

from ipadapter_demo.files import whole_file
from ipadapter_demo.imaging import images_from_pixels
from ipadapter_demo.models.base_model import load_base_model
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.models.memory import has_bfloat16
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.pipeline.inpainting.crop import mask_box
from ipadapter_demo.request import GenerateRequest, Inpaint, Reference
from ipadapter_demo.tabletop.erase import masks_over_first
from ipadapter_demo.tabletop.files import pictures_of
from ipadapter_demo.tabletop.render import render
from ipadapter_demo.tabletop.scene import Scenes, partners_with_one_solid, with_first_solid_of
from ipadapter_demo.training.loop import fit
from ipadapter_demo.training.run import Run
from ipadapter_demo.training.tabletop.pictures import SIZE, Pictures
from ipadapter_demo.training.tabletop.vae import LATENT_NOISE, psnr, reconstruction, save_vae

DRAWN = 640  # pictures that the model inpaints, once, and as many parts of them
SHARE = 8  # of them in one call
APART = 64  # of both, to measure by
DEVIATION_WEIGHT = 4.0
KEPT_WEIGHT = 2.0
WINDOW, AROUND = 3, 9  # pixels: side of the squares that deviate, and of those it is a mean of
COARSE = 4  # pixels


def train_decoder(run: Run, pictures: Pictures, held_out: Pictures, out: Path) -> dict:
    """Go on with the decoder of `out/vae`, beside all other parts, and write it; what the model
    inpaints is kept in the run's folder."""
    torch.manual_seed(run.seed)
    drawn = pictures[:DRAWN]
    whole, parts = drawn.scenes, parts_around_first(drawn.scenes, run.seed)
    kinds = [
        (*inpainted_latents(drawn, scenes, out, run.folder / name, run.device), wanted_of(scenes))
        for name, scenes in (("whole", whole), ("parts", parts))
    ]
    # in turn, so that of the last ones half are of each kind
    latents, masks, wanted = (
        torch.stack(each, dim=1).flatten(0, 1) for each in zip(*kinds, strict=True)
    )
    vae, before = (
        AutoencoderTiny.from_pretrained(out / "vae").float().requires_grad_(False).to(run.device)
        for _ in range(2)
    )
    vae.decoder.requires_grad_(True)
    learnt = max(2, len(wanted) - APART)

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        rows = torch.randint(learnt, (batch,), generator=generator)
        pixels, mask, denoised = (part[rows].to(run.device) for part in (wanted, masks, latents))
        with torch.no_grad():
            encoded = before.encode(pixels).latents
            old = before.decode(denoised).sample.float()
        noise = torch.randn(encoded.shape, generator=generator).to(encoded)
        both = vae.decode(torch.cat([encoded + LATENT_NOISE * noise, denoised])).sample.float()
        again, new = both.chunk(2)
        apart = (deviations(again) - deviations(pixels)).abs().mean()
        inside = (detail_inside(new, mask) - detail_inside(pixels, mask)).abs().mean()
        kept = (F.avg_pool2d(new, COARSE) - F.avg_pool2d(old, COARSE)).abs().mean()
        return (
            reconstruction(again, pixels) + KEPT_WEIGHT * kept + DEVIATION_WEIGHT * (apart + inside)
        )

    @torch.no_grad()
    def detail(path: Path | None = None) -> dict[str, float]:
        """Of what was inpainted in pictures apart, as a part of what rendering has there."""
        rows = slice(-APART, None)
        pixels, mask = wanted[rows].to(run.device), masks[rows].to(run.device)
        new = vae.decode(latents[rows].to(run.device)).sample.float().clamp(-1, 1)
        if path is not None:
            sheet = torch.cat([pixels[:8], new[:8]])
            save_image(sheet, path, nrow=8, normalize=True, value_range=(-1, 1))
        ours, theirs = (variances(each) * _inner(mask) for each in (new, pixels))
        return {"detail_inside": round(float(ours.sum() / theirs.sum()), 4)}

    outcome = fit(run, vae, loss_of, detail)
    found = detail() | {"psnr_db": round(psnr(vae, held_out), 2)}
    save_vae(vae, out)
    return asdict(outcome) | found


@torch.no_grad()
def inpainted_latents(
    pictures: Pictures, scenes: Scenes, folder: Path, cache: Path, device: str
) -> tuple[Tensor, Tensor]:
    """What the model in `folder` hands its decoder (B, 4, S / 4, S / 4) when it paints over the
    first solid of each picture or of its part that is seen in `scenes`, given the solid of another
    picture as reference; and the masks (B, 1, S, S), 1 inside. Drawn once, into `cache`."""
    masks = masks_over_first(scenes, SIZE)
    inside = torch.stack([torch.from_numpy(np.asarray(mask) > 0) for mask in masks]).float()
    path = cache / f"inpainted-{len(pictures)}.pt"
    if not path.exists():
        dtype = torch.bfloat16 if has_bfloat16(device) else torch.float32
        base = load_base_model(replace(TABLETOP, folder=folder), device, dtype)
        pipeline = ImagePromptPipeline(base)
        seen: list[Tensor] = []
        decoder = base.vae.autoencoder.decoder
        decoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].cpu()))
        references = images_from_pixels(pictures.pixels(torch.arange(len(pictures))))
        images = list(pictures_of(scenes, SIZE))
        partners = partners_with_one_solid(scenes).tolist()
        recommended = pipeline.info.recommended
        around = recommended.background_weight
        requests = []
        for seed, (image, mask, partner) in enumerate(zip(images, masks, partners, strict=True)):
            given = {
                "references": (Reference(image=references[partner]),),
                "inpaint": Inpaint(image=image, mask=mask, background_weight=around),
            }
            # a step that is taken once: to repeat it changes nothing of the detail
            fields = recommended.fields_beside(given) | {"sampler": recommended.sampler}
            requests.append(GenerateRequest(seed=seed, **fields | given))
        for _ in pipeline.generate_all(requests, SHARE):
            pass
        with whole_file(path) as temporary:
            torch.save(torch.cat(seen).float(), temporary)
    return torch.load(path, weights_only=True), inside[:, None]


def parts_around_first(scenes: Scenes, seed: int) -> Scenes:
    """The scenes, of which the square is seen that an `Inpaint.context` from 0 to 1 crops around a
    mask over the first solid."""
    contexts = torch.rand(len(scenes), generator=torch.Generator().manual_seed(seed)).tolist()
    views = []
    for mask, context in zip(masks_over_first(scenes, SIZE), contexts, strict=True):
        left, upper, right, lower = mask_box(mask, context)
        views.append([left + right - SIZE, upper + lower - SIZE, right - left])
    return replace(scenes, view=torch.tensor(views) / SIZE)


def wanted_of(scenes: Scenes) -> Tensor:
    """(B, 3, S, S) in [-1, 1]: the scenes with what is painted into them."""
    scenes = with_first_solid_of(scenes, partners_with_one_solid(scenes))
    return torch.cat([render(some, SIZE).pixels for some in scenes.chunks()]) * 2 - 1


def variances(pixels: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H - 2, W - 2): in each square of `WINDOW` pixels."""
    mean = F.avg_pool2d(pixels, WINDOW, 1)
    return (F.avg_pool2d(pixels.square(), WINDOW, 1) - mean.square()).clamp(min=0)


def deviations(pixels: Tensor) -> Tensor:
    """The roots of their means around every fourth pixel."""
    return F.avg_pool2d(variances(pixels) + 1e-4, AROUND, COARSE).sqrt()


def detail_inside(pixels: Tensor, mask: Tensor) -> Tensor:
    """(B,) the root of the mean inside the mask of each picture."""
    inner = _inner(mask)
    found = (variances(pixels).mean(dim=1, keepdim=True) * inner).sum((1, 2, 3))
    return (found / inner.sum((1, 2, 3)).clamp(min=1) + 1e-4).sqrt()


def _inner(mask: Tensor) -> Tensor:
    edge = WINDOW // 2
    return mask[:, :, edge:-edge, edge:-edge]
