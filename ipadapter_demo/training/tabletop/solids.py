"""Solids recipe: the text encoder learns, through the finished base, to keep two solids apart.

Without it words of two solids stand too near each other: a cube beside a cylinder is drawn as a
second cylinder, and a short text's second colour is lost. Here the base's own loss says how full
captions and short ones of two solids have to be read; half of them name a cube and a cylinder.
Texts of one solid or none, in any words, keep their states. The UNet and everything trained beside
it stay as they are.
"""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ipadapter_demo.tabletop.caption import FULL, Said, said_of, written
from ipadapter_demo.tabletop.scene import SHAPES, Scenes
from ipadapter_demo.training.loop import fit
from ipadapter_demo.training.noise import Diffusion
from ipadapter_demo.training.run import Run
from ipadapter_demo.training.tabletop.encoders import tokens_of
from ipadapter_demo.training.tabletop.latents import (
    SCHEDULE,
    Frozen,
    before,
    frozen_unet,
    save_samples,
    scaled_latents,
)
from ipadapter_demo.training.tabletop.pictures import Pictures
from ipadapter_demo.training.tabletop.queries import relative_error
from ipadapter_demo.training.tabletop.words import EMBEDS, in_other_words, some_of

KEPT = 30.0  # weight of the states of other texts
EARLIEST = 0.3  # share of the schedule: with less noise it is settled which solids there are
MOST_WEIGHT = 20.0  # of truncated SNR
HELD_OUT = 256


def train_solids(run: Run, pictures: Pictures, held_out: Pictures, out: Path) -> dict:
    """Go on with `out/text_encoder` and write it. Its projection stays."""
    torch.manual_seed(run.seed)
    start = before(run, out, "text_encoder")
    teacher = Frozen.load(out, run.device, with_image_encoder=False, before=start)
    student = replace(teacher, text_encoder=deepcopy(teacher.text_encoder).requires_grad_(True))
    projection = load_file(out / "text_projection.safetensors")["weight"].to(run.device).float()
    unet, cache = frozen_unet(out, run.device), run.folder.parent / "cache"
    diffusion = Diffusion(SCHEDULE, run.device)
    held_out = held_out[:HELD_OUT]
    shown = scaled_latents(teacher.vae, pictures, cache)
    shown_held_out = scaled_latents(teacher.vae, held_out, cache / "held-out")

    def read(model: Frozen, texts: list[str]) -> tuple[Tensor, Tensor]:
        """States (B, tokens, dim) and embeddings (B, K), in float32: they are to differ little."""
        with torch.autocast(torch.device(run.device).type, enabled=False):
            outputs = model.text_encoder(**tokens_of(model.tokenizer, texts, run.device))
        return outputs[0], outputs.pooler_output @ projection.T

    def denoised(latents: Tensor, texts: list[str], generator: torch.Generator) -> Tensor:
        """The base's loss for our states, over that for the teacher's."""
        clean = latents.float().to(run.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        time = EARLIEST + (1 - EARLIEST) * torch.rand(len(clean), generator=generator)
        timesteps = diffusion.timesteps(time, "uniform")
        noisy = diffusion.noisy(clean, noise, timesteps)
        noisy = noisy.contiguous(memory_format=torch.channels_last)

        def error(states: Tensor) -> Tensor:
            predicted = unet(noisy, timesteps, states).sample
            return diffusion.loss(predicted, noise, timesteps, most=MOST_WEIGHT)

        with torch.no_grad():
            theirs = error(read(teacher, texts)[0])
        return error(read(student, texts)[0]) / theirs

    def kept(texts: list[str]) -> tuple[Tensor, Tensor]:
        """How much of states and of embeddings changes."""
        with torch.no_grad():
            theirs = read(teacher, texts)
        ours = read(student, texts)
        return relative_error(ours[0], theirs[0]), relative_error(ours[1], theirs[1])

    pairs = _pairs(pictures)
    nearest = pairs[_nearest(pictures.scenes[pairs])]
    nearest = nearest if len(nearest) else pairs  # of few pictures

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
        rows = torch.cat(
            [
                few[torch.randint(len(few), (count,), generator=generator)]
                for few, count in ((pairs, batch - batch // 2), (nearest, batch // 2))
            ]
        )
        texts = [_text_of_two(pictures, row, rng) for row in rows.tolist()]
        others = torch.randint(len(pictures), (2 * batch,), generator=generator).tolist()
        states, embeds = kept(["", *_other_texts(student, pictures, others, rng)])
        return denoised(shown[rows], texts, generator) + KEPT * states + EMBEDS * embeds

    @torch.no_grad()
    def figures() -> dict[str, float]:
        """Of held-out scenes: `denoised` below 1 is better than before, the others 0 at best."""
        rng, rows = random.Random(1), _pairs(held_out)
        texts = [_text_of_two(held_out, row, rng) for row in rows.tolist()]
        better = denoised(shown_held_out[rows], texts, torch.Generator().manual_seed(1))
        states, embeds = kept(_other_texts(student, held_out, list(range(len(held_out))), rng))
        found = {"denoised": better, "states": states, "embeds": embeds}
        return {name: round(float(value), 5) for name, value in found.items()}

    def preview(path: Path) -> dict[str, float]:
        rng, rows = random.Random(0), _pairs(held_out)[:16].tolist()
        texts = [_text_of_two(held_out, row, rng) for row in rows]
        save_samples(unet, student, texts, path, unet.config.sample_size)
        return figures()

    outcome = fit(run, student.text_encoder, loss_of, preview)
    provenance = asdict(outcome) | figures()
    student.text_encoder.half().save_pretrained(out / "text_encoder")
    return provenance


def _pairs(pictures: Pictures) -> Tensor:
    """Rows of the pictures with two solids."""
    return torch.nonzero(pictures.scenes.present.all(dim=1))[:, 0]


def _nearest(scenes: Scenes) -> Tensor:
    """(N,) whether a cube stands beside a cylinder: words that were nearest to each other."""
    kinds = torch.tensor([SHAPES.index("cube"), SHAPES.index("cylinder")])
    return (scenes.shape.sort(dim=1).values == kinds).all(dim=1)


def _text_of_two(pictures: Pictures, row: int, rng: random.Random) -> str:
    """The full caption, or no more than the colours and shapes."""
    said = said_of(pictures.scenes, row, FULL, rng)
    if rng.random() < 0.5:
        said = Said(tuple(replace(phrase, texture="") for phrase in said.solids))
    return written(said)


def _other_texts(
    model: Frozen, pictures: Pictures, rows: list[int], rng: random.Random
) -> list[str]:
    """One solid or none, with much or little of the rest, half of them in other words. Of two
    solids neither is named: floors and walls alone would come too seldom else."""
    texts = []
    for number, row in enumerate(rows):
        said = some_of(pictures, row, rng)
        if len(said.solids) == 2:
            said = replace(said, solids=())
        texts.append(in_other_words(model, said, rng) if number % 2 else written(said))
    return texts
