"""Words recipe: the text encoder, tuned by what the finished base makes of its states.

Contrastive training needs little of a caption to tell pictures apart, mostly colours, so the states
hardly say "cube" or "cylinder". Here the frozen UNet's own ε loss says what is missing. Two things
stay as they were: the pooled output, which evaluation compares with pictures, and the states of the
empty prompt, beside which everything else was trained.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ipadapter_demo.tabletop.caption import FULL, RICH
from ipadapter_demo.training.data import Pictures
from ipadapter_demo.training.encoders import tokens_of
from ipadapter_demo.training.latents import (
    Frozen,
    Noiser,
    captions,
    frozen_unet,
    save_samples,
    scaled_latents,
)
from ipadapter_demo.training.loop import Run, fit

STAYS = 1.0  # weight of what must not change


def train_words(run: Run, pictures: Pictures, held_out: Pictures, out: Path) -> dict:
    """Tune and write `out/text_encoder`."""
    torch.manual_seed(run.seed)
    frozen = Frozen.load(out, run.device, with_image_encoder=False)
    unet = frozen_unet(out, run.device)
    before = copy.deepcopy(frozen.text_encoder)
    encoder = frozen.text_encoder.requires_grad_(True)
    latents = scaled_latents(frozen.vae, pictures, run.folder.parent / "cache")
    noiser = Noiser(run.device)
    nothing = tokens_of(frozen.tokenizer, [""], run.device)
    with torch.no_grad():
        states_of_nothing = before(**nothing)[0]

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        indices = torch.randint(len(latents), (batch,), generator=generator)
        tokens = tokens_of(frozen.tokenizer, captions(pictures, indices, RICH, generator),
                           run.device)
        said = encoder(**tokens)
        with torch.no_grad():
            pooled = before(**tokens).pooler_output
        noisy, noise, timesteps = noiser.noised(latents[indices], generator)
        predicted = unet(noisy, timesteps, said[0]).sample
        off = (predicted.float() - noise).square() * noiser.min_snr_weights(timesteps)
        moved = 1 - F.cosine_similarity(said.pooler_output.float(), pooled.float()).mean()
        moved = moved + (encoder(**nothing)[0].float() - states_of_nothing).square().mean()
        return off.mean() + STAYS * moved

    def preview(path: Path) -> None:
        texts = captions(held_out, torch.arange(16), FULL, torch.Generator().manual_seed(0))
        save_samples(unet, frozen, texts, path, latents.shape[-1], above=held_out[:16])

    outcome = fit(run, encoder, loss_of, preview)
    encoder.half().save_pretrained(out / "text_encoder")
    return asdict(outcome)
