"""Another style for the same world: ink along every edge, as in a comic. A base model fine-tuned to
it stands in for the community models that the paper carries its adapter over to."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from ipadapter_demo.claims.testbed import Testbed
from ipadapter_demo.tabletop.render import render
from ipadapter_demo.tabletop.scene import Scenes
from ipadapter_demo.training.run import Run
from ipadapter_demo.training.tabletop.base import train_base
from ipadapter_demo.training.tabletop.latents import frozen_unet
from ipadapter_demo.training.tabletop.pictures import Pictures

COUNT = 4096
STEPS, BATCH = 300, 64
INK = 0.15  # a pixel with no channel above this is ink


def cel_pictures(scenes: Scenes) -> Tensor:
    """The scenes (B, 3, 128, 128) in [-1, 1], their edges drawn in black three pixels wide."""
    parts = []
    for part in scenes.chunks():
        drawn = render(part)
        line = F.max_pool2d(drawn.edges[:, None].float(), 3, stride=1, padding=1)
        parts.append(drawn.pixels * (1 - line) * 2 - 1)
    return torch.cat(parts)


def ink(pixels: Tensor) -> float:
    """Share of pixels in [-1, 1] that are nearly black, at 64 pixels a side."""
    small = F.interpolate(pixels, (64, 64), mode="area")
    return round((small.amax(dim=1) < 2 * INK - 1).float().mean().item(), 4)


def cel_base(testbed: Testbed) -> UNet2DConditionModel:
    """The testbed's base, fine-tuned on COUNT pictures of the other style; made once."""
    folder = testbed.runs / "cel"
    out = folder / "model"
    if not (out / "unet").exists():
        scenes = testbed.pictures.scenes[:COUNT]
        images = ((cel_pictures(scenes) + 1) * 127.5).round().byte().numpy()
        pictures = Pictures(scenes, np.ascontiguousarray(images))
        out.mkdir(parents=True, exist_ok=True)
        for part in ("vae", "tokenizer", "text_encoder"):
            link = out / part
            if not link.exists():
                link.symlink_to((testbed.base / part).resolve())
        run = Run(
            folder=folder / "base", steps=STEPS, batch=BATCH, lr=3e-4, seed=41, preview_every=STEPS
        )
        train_base(run, pictures, pictures[:16], out, small=True, start=testbed.base / "unet")
    return frozen_unet(out, "cpu")
