"""The beginning of sampling: each image's own noise, and the latents of given pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor

from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.pipeline.cache import ContentCache
from ipadapter_demo.pipeline.sizes import Size


@dataclass(frozen=True, slots=True, eq=False)
class LatentInit:
    """noise (B, C, h, w) is each image's own, and `generators` go on from it, for all noise that is
    still to come. `init_latents` (B or 1, C, h, w) are those of given pictures, of which the last
    `strength` of the steps is taken."""

    noise: Tensor
    generators: tuple[torch.Generator, ...] = ()
    init_latents: Tensor | None = None
    strength: float = 1.0

    def more_noise(self) -> Tensor:
        """Fresh noise for each image."""
        shape = self.noise.shape[1:]
        fresh = torch.stack([torch.randn(shape, generator=own) for own in self.generators])
        return fresh.to(self.noise)


class LatentEncoder:
    """A VAE of one model, its own or another one by name. Requests of one comparison, or of one
    person, often have the same picture, so the latest latents are kept."""

    def __init__(
        self, model: BaseModel, vae: str | None = None, cache: ContentCache | None = None
    ) -> None:
        self._model, self._vae = model, vae
        self._cache = ContentCache(8) if cache is None else cache

    def of(self, vae: str | None) -> LatentEncoder:
        """The same with the VAE of a request."""
        return LatentEncoder(self._model, vae, self._cache)

    def shape(self, size: Size) -> tuple[int, int, int]:
        """(channels, height, width) of the latents of a picture of this size."""
        vae = self._model.vae
        return vae.channels, size[1] // vae.factor, size[0] // vae.factor

    def init(
        self, seeds: Sequence[int], size: Size, given: Tensor | None, strength: float
    ) -> LatentInit:
        """From noise, or from the latents (B or 1, C, h, w) of given pictures.

        Noise is drawn on the CPU in float32: the same whatever the device, precision or batch. Its
        generators go on, as other seeds would not do: torch's knows only their lower 32 bits.
        """
        generators = tuple(torch.Generator().manual_seed(seed) for seed in seeds)
        shape = self.shape(size)
        noise = torch.stack([torch.randn(shape, generator=own) for own in generators])
        return LatentInit(
            noise.to(self._model.device, self._model.dtype),
            generators,
            given,
            strength,
        )

    def encode(self, pixels: Tensor) -> Tensor:
        """The latents of pixels (B, 3, H, W) in [-1, 1]."""

        key = self._vae, pixels.shape, sha256(pixels.numpy().tobytes()).digest()
        vae = self._model.vae_of(self._vae)
        return self._cache.get(key, lambda: vae.latents_from_pixels(pixels))
