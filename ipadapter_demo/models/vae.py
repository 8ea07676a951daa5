"""Pixels <-> scaled latents, whichever autoencoder class a base model has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ipadapter_demo.models.compiled import by_size, uniform

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny


@dataclass(frozen=True, slots=True, eq=False)
class VAE:
    """A frozen autoencoder. `latents` here are always scaled: about unit variance.

    One whose configuration says `force_upcast` overflows in half precision: it encodes in float32,
    and where it rests in float16 it decodes in float32, too. `honours_upcast` False ignores that,
    as diffusers' pipelines of SD 1.5 do: its autoencoder does not overflow, but its configuration
    does not say so. Only one call at a time: the weights are converted there and back.
    https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl_img2img.py#L716
    """

    autoencoder: AutoencoderTiny | AutoencoderKL
    device: torch.device | str = "cpu"  # where it works, wherever its weights rest
    honours_upcast: bool = True

    def __post_init__(self) -> None:
        """On a GPU one picture at a time: SDXL's takes gigabytes, when all steps are done."""
        if torch.device(self.device).type != "cpu":
            self.autoencoder.enable_slicing()

    @property
    def factor(self) -> int:
        """Width of a latent cell in pixels."""
        return 2 ** (len(self.autoencoder.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        return self.autoencoder.config.latent_channels

    def tile(self) -> None:
        """From now on large pictures in parts."""
        network = self.autoencoder
        network.enable_tiling()
        if hasattr(network, "spatial_scale_factor"):  # diffusers takes it from the colours' number
            network.spatial_scale_factor = self.factor
            network.tile_latent_min_size = network.tile_sample_min_size // self.factor

    @property
    def _upcasts(self) -> bool:
        return self.honours_upcast and bool(self.autoencoder.config.force_upcast)

    @torch.no_grad()
    def latents_from_pixels(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, H / factor, W / factor); the mode, never a sample."""
        if self._upcasts:
            latents = self._in_float32(self._encoded, pixels)
        else:
            latents = self._encoded(pixels)
            if not torch.isfinite(latents).all():
                latents = self._in_float32(self._encoded, pixels)
        return latents.to(self.autoencoder.dtype) * self.autoencoder.config.scaling_factor

    @torch.no_grad()
    def pixels_from_latents(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, h · factor, w · factor), about [-1, 1]."""
        if self._upcasts and self.autoencoder.dtype == torch.float16:
            return self.pixels_in_float32(latents)
        return self._decoded(latents)

    @torch.no_grad()
    def pixels_in_float32(self, latents: Tensor) -> Tensor:
        """The same, decoded in full precision, whatever the configuration says."""
        return self._in_float32(self._decoded, latents)

    def _encoded(self, pixels: Tensor) -> Tensor:
        encoded = self.autoencoder.encode(pixels.to(self.device, self.autoencoder.dtype))
        return encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()

    def _decoded(self, latents: Tensor) -> Tensor:
        unscaled = latents.to(self.autoencoder.dtype) / self.autoencoder.config.scaling_factor
        with by_size(self.autoencoder, unscaled) as compiled:
            return self.autoencoder.decode(uniform(unscaled) if compiled else unscaled).sample

    def _in_float32(self, work: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        dtype = self.autoencoder.dtype
        self.autoencoder.to(torch.float32)
        try:
            return work(given)
        finally:
            self.autoencoder.to(dtype)
