"""The common ground of all studies of the claims: one base at half size, one set of pictures.

At 64 pixels a training costs a quarter, so that several methods can be trained several times. The
base is the shipped UNet, brought to half size by the base recipe's own small stage.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from ipadapter_demo.evaluation.benchmark import Scorer
from ipadapter_demo.evaluation.similarity import Similarity
from ipadapter_demo.imaging import images_from_pixels, pixels_from_images
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.tabletop.caption import FULL, caption
from ipadapter_demo.tabletop.scene import sample_scenes
from ipadapter_demo.training.run import Run
from ipadapter_demo.training.tabletop.base import train_base
from ipadapter_demo.training.tabletop.encoders import clip_pixels
from ipadapter_demo.training.tabletop.latents import Frozen, frozen_unet
from ipadapter_demo.training.tabletop.pictures import Pictures, rendered_pictures

PICTURES = 32768
SIDE = 16  # latent cells a side, of 4 pixels
EVAL_SEED = 940_001  # held out, and apart from every other evaluation's scenes
BASE_STEPS, BASE_BATCH = 600, 64

Reads = Literal["embeds", "patches", "shuffled"]  # what a method reads of a picture


@dataclass(frozen=True, slots=True, eq=False)
class Testbed:
    """The frozen parts, the pictures to learn from, and the scorer of what comes out."""

    runs: Path
    base: Path  # the model folder of `frozen` and `unet`
    frozen: Frozen
    unet: UNet2DConditionModel
    pictures: Pictures
    similarity: Similarity

    @property
    def encoder(self) -> CLIPVisionModelWithProjection:
        assert self.frozen.image_encoder is not None
        return self.frozen.image_encoder

    @torch.no_grad()
    def read(self, reads: Reads, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """The input of a method from pictures (B, 3, H, W) in [-1, 1]."""
        if reads == "shuffled":
            small = F.interpolate(pixels, (4 * SIDE, 4 * SIDE), mode="area")
            return (shuffled(small, generator) + 1) / 2
        return self.read_by_encoder(reads, clip_pixels(pixels))

    @torch.no_grad()
    def read_by_encoder(self, reads: Reads, seen: Tensor) -> Tensor:
        """The input of every method but the shuffle, from pixels as the encoder wants them."""
        if reads == "embeds":
            return self.encoder(seen).image_embeds.float()
        return self.encoder(seen, output_hidden_states=True).hidden_states[-2].float()

    def nothing(self, reads: Reads, count: int) -> Tensor:
        """The input of no picture: zeros, as in the paper; for patches, a blank picture."""
        if reads == "patches":
            side = self.encoder.config.image_size
            blank = torch.zeros(1, 3, side, side)
            with torch.no_grad():
                seen = self.encoder(blank, output_hidden_states=True)
            return seen.hidden_states[-2].expand(count, -1, -1)
        width = self.encoder.config.projection_dim
        shape = (width,) if reads == "embeds" else (3, 4 * SIDE, 4 * SIDE)
        return torch.zeros(count, *shape)


def open_testbed(runs: Path) -> Testbed:
    """Everything at `runs`, made there unless it is there already: minutes, the first time."""
    pictures = rendered_pictures(runs / "data", PICTURES)
    base = runs / "base-at-half-size"
    if not (base / "unet" / "config.json").exists():
        for part in (
            "vae",
            "tokenizer",
            "text_encoder",
            "image_encoder",
            "feature_extractor",
            "scheduler",
        ):
            shutil.copytree(TABLETOP.folder / part, base / part, dirs_exist_ok=True)
        run = Run(
            folder=runs / "half-size",
            steps=BASE_STEPS,
            batch=BASE_BATCH,
            lr=5e-4,
            seed=31,
            preview_every=BASE_STEPS,
        )
        train_base(run, pictures, pictures[:16], base, small=True, start=TABLETOP.folder / "unet")
    frozen = Frozen.load(base, "cpu", with_image_encoder=True)
    return Testbed(
        runs=runs,
        base=base,
        frozen=frozen,
        unet=frozen_unet(base, "cpu"),
        pictures=pictures,
        similarity=Similarity(TABLETOP.folder),
    )


def shuffled(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (B, 3, H, W) with their content displaced by a smooth random flow: colours and
    textures stay, the layout goes. In the manner of ControlNet's content shuffle
    (https://github.com/lllyasviel/ControlNet-v1-1-nightly#controlnet-11-shuffle)."""
    coarse = torch.rand(len(pixels), 2, 4, 4, generator=generator)
    flow = F.interpolate(coarse, pixels.shape[-2:], mode="bicubic", align_corners=True)
    low, high = flow.amin((2, 3), keepdim=True), flow.amax((2, 3), keepdim=True)
    places = (2 * (flow - low) / (high - low) - 1).permute(0, 2, 3, 1)
    return F.grid_sample(pixels, places.to(pixels), padding_mode="reflection", align_corners=True)


@dataclass(frozen=True, slots=True, eq=False)
class EvalSet:
    """Held-out scenes as references, and the figures for what a method makes of them."""

    scorer: Scorer
    references: Tensor  # (N, 3, 128, 128) in [-1, 1]
    seen: Tensor  # unit embeddings of the references (N, K)
    said: Tensor  # and of their full captions

    @classmethod
    def of(cls, testbed: Testbed, scenes: int) -> EvalSet:
        import random

        scorer = Scorer(sample_scenes(scenes, EVAL_SEED))
        references = pixels_from_images(scorer.images)
        words = [caption(scorer.scenes, i, FULL, random.Random(0)) for i in range(scenes)]
        return cls(
            scorer,
            references,
            testbed.similarity.of_pictures(references),
            testbed.similarity.of_texts(words),
        )

    def metrics(self, testbed: Testbed, pixels: Tensor) -> dict[str, float]:
        """CLIP-I, CLIP-T (cosines) and the share of the reference's attributes that is right, the
        mean and each by name, in pictures (N, 3, h, w), one of each reference."""
        made = testbed.similarity.of_pictures(pixels)
        score = self.scorer.score(images_from_pixels(pixels))
        return {
            "clip_i": round((made * self.seen).sum(1).mean().item(), 4),
            "clip_t": round((made * self.said).sum(1).mean().item(), 4),
            "attributes": score["mean"],
        } | {name: found["right"] for name, found in score["by_attribute"].items()}
