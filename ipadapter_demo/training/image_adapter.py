"""Train an image adapter (arXiv 2308.06721, section 4.1) on any SD 1.5 or SDXL base.

    accelerate launch -m ipadapter_demo.training.image_adapter --config run.yaml
    python -m ipadapter_demo train image-adapter --config run.yaml

Only the projection and one K', V' per cross-attention layer learn, K' and V' starting as the
layer's own K and V. Image, text or both are dropped, 5 % of the time each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from ipadapter_demo.adapter import (
    ImageAdapter,
    ImagePrompt,
    LinearProjection,
    Projection,
    Resampler,
    attach,
    check_fits,
    load_image_adapter,
    save_image_adapter,
)
from ipadapter_demo.errors import TrainingError
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.request import GenerateRequest, Reference
from ipadapter_demo.training.card import Provenance, write_card
from ipadapter_demo.training.config import ImageAdapterConfig, ImagePromptConfig
from ipadapter_demo.training.data.batch_source import Batch
from ipadapter_demo.training.data.examples import Example, Preparer
from ipadapter_demo.training.finetune import train
from ipadapter_demo.training.held_out import held_out_callback
from ipadapter_demo.training.objective import Conditions

NAME = "ip-adapter"
VARIANTS: dict[str, type[Projection]] = {"base": LinearProjection, "plus": Resampler}


class ImageAdapterTask:
    """An adapter attached to a frozen base, conditioned through the base's image encoder."""

    def __init__(self, config: ImageAdapterConfig, base: BaseModel) -> None:
        self.config, self.base = config, base
        self.trained = (
            new_adapter(config, base) if config.start is None else _loaded(config.start, base)
        )
        self.trained.to(base.device)
        self.reads = config.variant
        attach(base.unet, self.trained)
        self.drawing = replace(base, adapters={"trained": self.trained})
        self.preparer = Preparer(
            config.size, base.image_processor, own_pictures=config.own_pictures
        )
        with torch.no_grad():
            self._empty = self.trained.empty_embeds(1, base.image_encoder)

    @torch.no_grad()
    def embeds(self, examples: Sequence[Example]) -> Tensor:
        encoder = self.base.image_encoder
        seen = torch.stack([e.clip_pixels for e in examples if e.clip_pixels is not None])
        return self.trained.embeds_from_clip_pixels(seen.to(encoder.device, encoder.dtype), encoder)

    def conditions(self, batch: Batch) -> Conditions:
        no_image, no_text = lost(self.config, batch.sample_noise.drop)
        embeds = self.embeds(batch.examples) if not batch.has("embeds") else batch.stacked("embeds")
        embeds = embeds.float().to(self.base.device)
        blank = no_image.to(embeds.device).view(-1, *[1] * (embeds.ndim - 1))
        embeds = torch.where(blank, self._empty.to(embeds), embeds)
        texts = batch.captions(lost=no_text)

        def arguments(
            noisy: Tensor, timesteps: Tensor, text: Tensor, added: dict[str, Tensor] | None
        ) -> dict[str, object]:
            tokens = self.trained.tokens_from_embeds(embeds)
            prompt = ImagePrompt(rows=slice(None), tokens=tokens, scale=1.0)
            return {
                "encoder_hidden_states": text,
                "cross_attention_kwargs": {"ip_hidden_states": (prompt,)},
            }

        return Conditions(texts, (no_image & no_text).tolist(), arguments)

    def request(self, image: Image.Image, caption: str) -> GenerateRequest:
        """A variation: no words, λ = 1."""
        return GenerateRequest(
            references=(Reference(image=image),),
            steps=20,
            guidance=self.base.entry.recommended.guidance,
        )

    def save(self, folder: Path, card: Provenance) -> list[Path]:
        """Both published layouts, in half precision as the published files are."""
        paths = [folder / f"{NAME}.safetensors", folder / f"{NAME}.bin"]
        for path in paths:
            save_image_adapter(self.trained, path, dtype=torch.float16)
        return [*paths, write_card(folder / "README.md", card)]


def lost(config: ImagePromptConfig, drop: Tensor) -> tuple[Tensor, Tensor]:
    """From uniform numbers (B,): which samples lose their picture, and which their caption."""
    image, text = config.drop_image, config.drop_image + config.drop_text
    both = (drop >= text) & (drop < text + config.drop_both)
    return (drop < image) | both, (drop >= image) & (drop < text) | both


def new_adapter(config: ImageAdapterConfig, base: BaseModel) -> ImageAdapter:
    """An adapter of the published sizes: https://huggingface.co/h94/IP-Adapter."""
    projection = VARIANTS[config.variant].for_encoder(
        base.image_encoder.config, base.unet.config.cross_attention_dim, config.tokens or None
    )
    unet = base.unet
    return ImageAdapter.for_unet(unet, projection.to(unet.device, torch.float32))


def _loaded(path: Path, base: BaseModel) -> ImageAdapter:
    adapter = load_image_adapter(path).float()
    check_fits(adapter, base.unet, adapter.width_read_from(base.image_encoder), path)
    return adapter


def _variant(adapter: ImageAdapter, path: Path) -> Literal["base", "plus"]:
    if isinstance(adapter.projection, LinearProjection):
        return "base"
    if isinstance(adapter.projection, Resampler):
        return "plus"
    raise TrainingError(
        f"start must be an adapter of the variant base or plus, got {path.name}, of the variant "
        f"{adapter.variant}"
    )


def train_image_adapter(config: ImageAdapterConfig) -> Provenance:
    """Train and write `ip-adapter.safetensors`, `.bin` and a model card into `config.out`.

    What is gone on with stays of its own variant, whatever the config says. Raises TrainingError,
    ModelError or CheckpointError.
    """
    if config.start is not None:
        before = load_image_adapter(config.start)
        config = replace(
            config, variant=_variant(before, config.start), tokens=before.num_tokens or 0
        )
    return train(config, lambda base: ImageAdapterTask(config, base), held_out_callback(config))


if __name__ == "__main__":
    from ipadapter_demo.training.cli import main

    main(__doc__, ImageAdapterConfig, train_image_adapter)
