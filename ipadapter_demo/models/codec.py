"""Pixels <-> scaled latents, whichever autoencoder class a base model has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny


@dataclass(frozen=True, slots=True, eq=False)
class Codec:
    """A frozen autoencoder. `latents` here are always scaled: about unit variance."""

    vae: AutoencoderTiny | AutoencoderKL
    device: torch.device | str = "cpu"  # where it works, wherever its weights rest

    @property
    def factor(self) -> int:
        """How many pixels a latent cell is wide."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        return self.vae.config.latent_channels

    @torch.no_grad()
    def latents_from_pixels(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, H / factor, W / factor); the mode, never a sample."""
        encoded = self.vae.encode(pixels.to(self.device, self.vae.dtype))
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return latents * self.vae.config.scaling_factor

    @torch.no_grad()
    def pixels_from_latents(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, h · factor, w · factor), about [-1, 1]."""
        unscaled = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        return self.vae.decode(unscaled).sample

    @torch.no_grad()
    def pixels_in_float32(self, latents: Tensor) -> Tensor:
        """The same, decoded in full precision: SDXL's decoder overflows in half precision.

        Only while nobody else decodes: the weights are converted there and back.
        """
        dtype = self.vae.dtype
        self.vae.to(torch.float32)
        try:
            return self.pixels_from_latents(latents)
        finally:
            self.vae.to(dtype)
