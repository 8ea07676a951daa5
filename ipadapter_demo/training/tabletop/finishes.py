"""Finishes recipe: the finished base and its text encoder learn glossy and metal solids together.

A solid whose finish is not said is matte, as all were before. So where a text names no other finish
the base of before is the teacher, beside an image prompt too: what it predicts has no noise, and
everything that was learnt already stays, with the adapters and structure networks that stand on it.
Where a text says glossy or metal, or an image prompt shows it and no text says otherwise, pictures
teach, as in the base recipe: the adapters stay, so what is read from a picture about a finish is
what little they carry. Half of the texts are in other words, for which the teacher reads the
caption that says the same.
"""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn

from ipadapter_demo.adapter import ImageAdapter, ImagePrompt, attach, load_image_adapter
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.tabletop.caption import FULL, POOR, RICH, CaptionStyle, Said, said_of, written
from ipadapter_demo.tabletop.scene import HELD_OUT_SEED, Scenes
from ipadapter_demo.training.loop import fit
from ipadapter_demo.training.noise import Diffusion
from ipadapter_demo.training.run import Run
from ipadapter_demo.training.tabletop.base import MIN_SNR_GAMMA, MOST_WEIGHT, TEXT_DROP
from ipadapter_demo.training.tabletop.encoders import clip_pixels, fits, tokens_of
from ipadapter_demo.training.tabletop.latents import (
    SCHEDULE,
    Frozen,
    before,
    captions,
    frozen_unet,
    save_samples,
    scaled_latents,
)
from ipadapter_demo.training.tabletop.pictures import Pictures, rendered_pictures
from ipadapter_demo.training.tabletop.queries import relative_error
from ipadapter_demo.training.tabletop.words import EMBEDS, in_other_words

STYLE = replace(RICH, matte=0.3)
SHOWN = replace(STYLE, solids=0.0)  # a text that is silent about a shiny solid would say matte
KEPT = 4.0  # weight of what the base of before predicts
HELD_OUT = 256


def train_finishes(run: Run, pictures: Pictures, held_out: Pictures, out: Path) -> dict:
    """Go on with `out/unet` and `out/text_encoder` and write both; the projection stays. Half of a
    batch are pictures with a glossy or a metal solid, which are drawn beside the matte ones; a
    fifth are such pictures, and a quarter are matte ones, beside an image prompt for one of `out`'s
    adapters."""
    torch.manual_seed(run.seed)
    folder, device = run.folder.parent, run.device
    start = before(run, out, "text_encoder", "unet")
    teacher = Frozen.load(out, device, with_image_encoder=True, before=start)
    student = replace(teacher, text_encoder=deepcopy(teacher.text_encoder).requires_grad_(True))
    fixed, unet = frozen_unet(start, device), frozen_unet(start, device).requires_grad_(True)
    adapters = _adapters(out, device)
    for network in (fixed, unet):
        attach(network, *adapters)
    projection = load_file(out / "text_projection.safetensors")["weight"].to(device).float()
    diffusion = Diffusion(SCHEDULE, device)
    held_out = held_out[:HELD_OUT]
    # of all pictures it is known already what has to be drawn, but for the solids' gloss
    shiny = rendered_pictures(folder / "data", max(len(pictures) // 2, 1), finishes=True)
    shiny_held_out = rendered_pictures(folder / "data", len(held_out), HELD_OUT_SEED, finishes=True)
    latents_of = {
        id(shown): scaled_latents(teacher.vae, shown, folder / "cache" / name)
        for shown, name in (
            (pictures, ""),
            (held_out, "held-out"),
            (shiny, "finishes"),
            (shiny_held_out, "finishes-held-out"),
        )
    }

    def predicted(
        model: Frozen,
        network: UNet2DConditionModel,
        noised: tuple[Tensor, Tensor],
        texts: list[str],
        prompts: tuple[ImagePrompt, ...] = (),
    ) -> tuple[Tensor, Tensor]:
        """What the network makes of the latents, and the texts' embeddings (B, K)."""
        read = model.text_encoder(**tokens_of(model.tokenizer, texts, device))
        found: Tensor = network(
            *noised, read[0].float(), cross_attention_kwargs={"ip_hidden_states": prompts}
        ).sample
        return found, read.pooler_output.float() @ projection.T

    def noisy(
        shown: Pictures, rows: Tensor, generator: torch.Generator
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Latents (B, C, h, w) of pictures with noise and their time steps (B,); the noise."""
        clean = latents_of[id(shown)][rows].float().to(device)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        timesteps = diffusion.timesteps(torch.rand(len(rows), generator=generator), "uniform")
        mixed = diffusion.noisy(clean, noise, timesteps)
        return (mixed.contiguous(memory_format=torch.channels_last), timesteps), noise

    def error(found: Tensor, wanted: Tensor, timesteps: Tensor) -> Tensor:
        return diffusion.loss(found, wanted, timesteps, MIN_SNR_GAMMA, MOST_WEIGHT)

    def prompted(
        shown: Pictures, rows: Tensor, generator: torch.Generator
    ) -> tuple[ImagePrompt, ...]:
        """For the first rows of a batch, which see their own picture, of any adapter."""
        index = int(torch.randint(len(adapters), (1,), generator=generator))
        if not len(rows):
            return ()
        return (_prompt(adapters[index], index, teacher, shown.pixels(rows)),)

    def learnt(
        shown: Pictures,
        rows: Tensor,
        beside: int,
        generator: torch.Generator,
        model: Frozen = student,
        network: UNet2DConditionModel = unet,
        free: bool = False,
    ) -> Tensor:
        """The base's loss on pictures with a shiny solid, whose texts say so, some in `free` words;
        but the first rows stand `beside` an image prompt, and their texts say little or nothing."""
        said = _said(shown, rows[:beside], POOR, generator)
        texts = _texts(
            student, said + _said(shown, rows[beside:], SHOWN, generator), free, generator
        )
        noised, noise = noisy(shown, rows, generator)
        prompts = prompted(shown, rows[:beside], generator)
        return error(predicted(model, network, noised, texts, prompts)[0], noise, noised[1])

    def changed(
        shown: Pictures,
        rows: Tensor,
        beside: int,
        generator: torch.Generator,
        free: bool = False,
    ) -> Tensor:
        """What became of the predictions of before on matte pictures, and of the embeddings; again
        the first rows stand `beside` an image prompt."""
        said = _said(shown, rows, STYLE, generator)
        drop = torch.rand(len(rows), generator=generator) < TEXT_DROP
        said = [Said() if silent else one for one, silent in zip(said, drop.tolist(), strict=True)]
        noised, _ = noisy(shown, rows, generator)
        prompts = prompted(shown, rows[:beside], generator)
        with torch.no_grad():
            known = [written(_without_finish(one)) for one in said]  # no new words to the teacher
            theirs, their_embeds = predicted(teacher, fixed, noised, known, prompts)
        texts = _texts(student, said, free, generator)
        ours, embeds = predicted(student, unet, noised, texts, prompts)
        return error(ours, theirs, noised[1]) + EMBEDS * relative_error(embeds, their_embeds)

    rows_of_shiny = _shiny(shiny.scenes)

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        some = torch.randint(len(rows_of_shiny), (batch // 2,), generator=generator)
        others = torch.randint(len(pictures), (batch - batch // 2,), generator=generator)
        kept = changed(pictures, others, batch // 4, generator, free=True)
        shown = learnt(shiny, rows_of_shiny[some], batch // 5, generator, free=True)
        return shown + KEPT * kept

    @torch.no_grad()
    def figures() -> dict[str, float]:
        """Of held-out pictures: the loss where a finish is said, over that of the base of before;
        and how far the predictions for matte ones are from those of before."""
        rows = _shiny(shiny_held_out.scenes)
        ours, theirs = (
            learnt(shiny_held_out, rows, 0, torch.Generator().manual_seed(1), *networks)
            for networks in ((student, unet), (teacher, fixed))
        )
        all_rows = torch.arange(len(held_out))
        kept = changed(held_out, all_rows, len(held_out) // 2, torch.Generator().manual_seed(1))
        return {"learnt": round(float(ours / theirs), 5), "changed": round(float(kept), 6)}

    def preview(path: Path) -> dict[str, float]:
        rows = _shiny(shiny_held_out.scenes)[:16]
        texts = captions(shiny_held_out, rows, FULL, torch.Generator().manual_seed(0))
        save_samples(unet, student, texts, path, unet.config.sample_size)
        return figures()

    outcome = fit(
        run, nn.ModuleDict({"unet": unet, "text": student.text_encoder}), loss_of, preview
    )
    provenance = asdict(outcome) | figures()
    student.text_encoder.half().save_pretrained(out / "text_encoder")
    unet.half().save_pretrained(out / "unet")
    return provenance


def _said(
    shown: Pictures, rows: Tensor, style: CaptionStyle, generator: torch.Generator
) -> list[Said]:
    rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    return [said_of(shown.scenes, row, style, rng) for row in rows.tolist()]


def _texts(model: Frozen, said: list[Said], free: bool, generator: torch.Generator) -> list[str]:
    """Captions, or every other one in free words; of no more tokens than the encoder reads, as far
    as leaving out "matte" makes them."""
    rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    said = [one if fits(model.tokenizer, written(one)) else _without_matte(one) for one in said]
    return [
        in_other_words(model, one, rng) if free and number % 2 else written(one)
        for number, one in enumerate(said)
    ]


def _without_matte(said: Said) -> Said:
    """It is understood."""
    solids = (replace(one, finish="") if one.finish == "matte" else one for one in said.solids)
    return replace(said, solids=tuple(solids))


def _without_finish(said: Said) -> Said:
    return replace(said, solids=tuple(replace(one, finish="") for one in said.solids))


def _adapters(out: Path, device: str) -> list[ImageAdapter]:
    return [
        load_image_adapter(out / file).float().to(device).requires_grad_(False)
        for file in TABLETOP.adapters.values()
    ]


def _shiny(scenes: Scenes) -> Tensor:
    """Rows of scenes with a solid that is not matte."""
    return torch.nonzero(((scenes.finish > 0) & scenes.present).any(dim=1))[:, 0]


def _prompt(adapter: ImageAdapter, index: int, model: Frozen, pixels: Tensor) -> ImagePrompt:
    """For the first rows of a batch, of as many pictures (B, 3, S, S) in [-1, 1]."""
    assert model.image_encoder is not None
    pixels = clip_pixels(pixels).to(model.image_encoder.device)
    embeds = adapter.embeds_from_clip_pixels(pixels, model.image_encoder).float()
    tokens = adapter.tokens_from_embeds(embeds)
    return ImagePrompt(rows=slice(0, len(pixels)), tokens=tokens, scale=1.0, adapter_index=index)
