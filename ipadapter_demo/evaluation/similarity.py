"""Pictures and words in one space: the cosines that the paper's Table 1 reports.

CLIP-I compares two pictures, CLIP-T a picture with words (arXiv 2308.06721, section 4.2). The
paper takes CLIP ViT-L/14; here it is the tabletop model's own pair of encoders, whose embedding is
also what the base adapter reads. So a high CLIP-I is the least that may be expected, and attributes
read off the picture are the independent measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ipadapter_demo.errors import ModelError
from ipadapter_demo.imaging import fit_square, pixels_from_images


class Clip(Protocol):
    """A pair of encoders into one space, or only the half of it that sees."""

    def of_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit embeddings (B, K)."""
        ...

    def of_texts(self, texts: Sequence[str]) -> Tensor | None:
        """Unit embeddings (B, K); None where there is no encoder of texts."""
        ...


class NamedClip:
    """A CLIP model in transformers' layout, openai/clip-vit-large-patch14 say, in float32."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Raises ModelError."""
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        self.device = device
        try:
            self.model = CLIPModel.from_pretrained(folder).float().to(device).eval()
            self.processor = CLIPImageProcessor.from_pretrained(folder)
            self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise ModelError(f"clip: {folder} holds no CLIP model: {error!s:.200}") from error

    @torch.no_grad()
    def of_images(self, images: Sequence[Image.Image]) -> Tensor:
        found = []
        for image in images:  # one at a time: a picture's number never depends on the others
            pixels = self.processor(image, return_tensors="pt").pixel_values.to(self.device)
            pooled = self.model.vision_model(pixels).pooler_output
            found.append(self.model.visual_projection(pooled))
        return F.normalize(torch.cat(found), dim=-1).cpu()

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        pooled = self.model.text_model(**tokens.to(self.device)).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=-1).cpu()


class Similarity:
    """The encoders of one model folder, on the CPU in float32."""

    def __init__(self, folder: Path) -> None:
        from transformers import (
            CLIPImageProcessor,
            CLIPTextModel,
            CLIPTokenizer,
            CLIPVisionModelWithProjection,
        )

        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.text = CLIPTextModel.from_pretrained(folder / "text_encoder").float().eval()
        self.projection = load_file(folder / "text_projection.safetensors")["weight"].float()
        self.vision = (
            CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder").float().eval()
        )
        self.processor = CLIPImageProcessor.from_pretrained(folder / "feature_extractor")

    @torch.no_grad()
    def of_pictures(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> unit embeddings (B, K)."""
        side = self.processor.crop_size["height"]
        if pixels.shape[-1] != side:
            pixels = F.interpolate(pixels, (side, side), mode="bicubic", antialias=True)
        mean, std = (
            torch.tensor(v).view(1, 3, 1, 1)
            for v in (self.processor.image_mean, self.processor.image_std)
        )
        seen = ((pixels.clamp(-1, 1) + 1) / 2 - mean) / std
        return F.normalize(self.vision(seen).image_embeds, dim=-1)

    def of_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit embeddings (B, K) of pictures of any size: the centre of each is seen."""
        side = self.processor.crop_size["height"]
        return self.of_pictures(pixels_from_images([fit_square(i, side, "crop") for i in images]))

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings (B, K)."""
        tokens = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        pooled = self.text(tokens.input_ids).pooler_output
        return F.normalize(pooled @ self.projection.T, dim=-1)
