"""Structure recipes: a ControlNet on canny edges, T2I-Adapters on edges and on the colour palette.

The base stays frozen. Half of the captions are empty, so that the map must speak for itself. A
T2I-Adapter's time steps lean towards the noisy end, where structure is decided:
t = (1 - u³)·T (arXiv 2302.08453, section 3.4). Like the base, both networks learn on pictures of
half the size first (`small`), where a step costs a quarter, and go on (`start`) at full size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.modeling_utils import ModelMixin
from PIL import Image
from torch import Tensor

from ipadapter_demo.models.annotators import annotate
from ipadapter_demo.models.structure import (
    ControlNetStructure,
    StructureNet,
    T2IAdapterStructure,
)
from ipadapter_demo.tabletop.caption import POOR
from ipadapter_demo.training.data import Pictures
from ipadapter_demo.training.latents import (
    Frozen,
    Noiser,
    captions,
    frozen_unet,
    save_samples,
    scaled_latents,
)
from ipadapter_demo.training.loop import Run, fit


def train_controlnet(run: Run, pictures: Pictures, held_out: Pictures, out: Path,
                     small: bool = False, start: Path | None = None) -> dict:
    """Write `out/controlnet-canny`: a copy of the UNet's encoder with zero convolutions."""

    def new(unet: UNet2DConditionModel) -> ControlNetModel:
        net = (ControlNetModel.from_unet(unet, conditioning_channels=3,
                                         conditioning_embedding_out_channels=(16, 32, 64))
               if start is None else ControlNetModel.from_pretrained(start).float())
        net.set_attn_processor(AttnProcessor())
        return net

    return _train(run, pictures, held_out, out / "controlnet-canny", out, new,
                  ControlNetStructure, "canny", noisy_end=False, small=small)


def train_t2i_adapter(run: Run, pictures: Pictures, held_out: Pictures, out: Path,
                      annotator: str = "palette", small: bool = False,
                      start: Path | None = None) -> dict:
    """Write `out/t2i-<annotator>`: features for each down block, computed once a picture."""

    def new(unet: UNet2DConditionModel) -> T2IAdapter:
        if start is not None:
            return T2IAdapter.from_pretrained(start).float()
        # The UNet's first block has no attention and halves the grid, as SDXL's: so "xl".
        return T2IAdapter(in_channels=3, channels=list(unet.config.block_out_channels),
                          num_res_blocks=2, downscale_factor=8, adapter_type="full_adapter_xl")

    return _train(run, pictures, held_out, out / f"t2i-{annotator}", out, new,
                  T2IAdapterStructure, annotator, noisy_end=True, small=small)


def _train(run: Run, pictures: Pictures, held_out: Pictures, target: Path, base: Path,
           new: Callable[[UNet2DConditionModel], ModelMixin],
           structure: Callable[..., StructureNet], annotator: str, noisy_end: bool,
           small: bool) -> dict:
    torch.manual_seed(run.seed)
    frozen = Frozen.load(base, run.device, with_image_encoder=False)
    unet = frozen_unet(base, run.device)
    net = new(unet).requires_grad_(True).to(run.device)
    net.to(memory_format=torch.channels_last)
    shrink = 2 if small else 1
    latents = scaled_latents(frozen.vae, pictures, run.folder.parent / "cache", shrink)
    noiser = Noiser(run.device)

    def residuals(noisy: Tensor, timesteps: Tensor, states: Tensor, maps: Tensor) -> dict:
        guide = structure(net).read(maps.to(run.device))
        return guide(noisy, timesteps, states, 1.0).unet_arguments()

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        indices = torch.randint(len(latents), (batch,), generator=generator)
        u = torch.rand(batch, generator=generator)
        timesteps = ((1 - u**3 if noisy_end else u) * len(noiser.alphas)).long().clamp(max=999)
        noisy, noise, timesteps = noiser.noised(latents[indices], generator, timesteps)
        states = frozen.text_states(captions(pictures, indices, POOR, generator), run.device)
        extra = residuals(noisy, timesteps, states, maps_of(pictures, indices, annotator, shrink))
        predicted = unet(noisy, timesteps, states, **extra).sample
        return (predicted.float() - noise).square().mean()

    def preview(path: Path) -> None:
        maps = maps_of(held_out, torch.arange(16), annotator, shrink)
        guide = structure(net).read(torch.cat([maps, maps]).to(run.device))
        save_samples(unet, frozen, [""] * 16, path, latents.shape[-1], above=held_out[:16],
                     residuals=lambda noisy, t, states: guide(noisy, t, states, 1.0)
                     .unet_arguments())

    outcome = fit(run, net, loss_of, preview)
    net.half().save_pretrained(target)
    return asdict(outcome) | {"parameters": sum(p.numel() for p in net.parameters())}


def maps_of(pictures: Pictures, indices: Tensor, annotator: str, shrink: int) -> Tensor:
    """(B, 3, S, S) in [0, 1] of the pictures reduced `shrink` times, drawn by the same detector
    that the demo offers."""
    images = pictures.images[indices.numpy()].transpose(0, 2, 3, 1)
    maps = [np.asarray(annotate(annotator, Image.fromarray(np.ascontiguousarray(i)).reduce(shrink)))
            for i in images]
    return torch.from_numpy(np.stack(maps)).permute(0, 3, 1, 2).float() / 255
