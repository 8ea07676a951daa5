"""The pictures that tabletop knows, into its folder: `scripts/known_pictures.py assets/tabletop`.

Prints how many held-out scenes and how many other pictures lie beyond the limit. Pictures
of your own can be named after the folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

import ipadapter_demo as ip
from ipadapter_demo.imaging import images_from_pixels, read_image
from ipadapter_demo.models.known_pictures import KnownPictures
from ipadapter_demo.models.weight_hashes import record_hashes
from ipadapter_demo.pipeline.conditioning.images import ReferenceEncoder
from ipadapter_demo.tabletop.render import render
from ipadapter_demo.tabletop.scene import sample_scenes

SEEN, HELD_OUT, SHARE = 4096, 2048, 0.997
SIZE = 128


def scenes(count: int, seed: int) -> list[Image.Image]:
    sampled, found = sample_scenes(count, seed), list[Image.Image]()
    for part in torch.arange(count).split(64):
        found += images_from_pixels(2 * render(sampled[part]).pixels - 1)
    return found


def noise(count: int, of: np.random.Generator) -> list[Image.Image]:
    """Pictures with the spectrum of photographs, 1 / f to a power, and related colours."""
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)[None])
    frequency[0, 0] = 1
    found = []
    for power in of.uniform(0.8, 1.6, count):
        spectra = np.fft.fft2(of.normal(size=(4, SIZE, SIZE))) / frequency**power
        channels = np.fft.ifft2(0.7 * spectra[:1] + 0.5 * spectra[1:]).real
        channels /= channels.std(axis=(1, 2), keepdims=True)
        pixels = channels.transpose(1, 2, 0) * of.uniform(25, 60) + of.uniform(80, 170, 3)
        found.append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
    return found


def leaves(count: int, of: np.random.Generator) -> list[Image.Image]:
    """Dead leaves, things of all sizes before each other: the plainest model of a photograph's
    edges (Lee, Mumford and Huang, 2001)."""
    found = []
    for _ in range(count):
        picture = Image.new("RGB", (SIZE, SIZE))
        draw, palette = ImageDraw.Draw(picture), of.integers(0, 255, (of.integers(3, 12), 3))
        for _ in range(400):
            x, y = of.uniform(0, SIZE, 2)
            wide, high = 4 / np.sqrt(of.uniform(0.002, 1)) * of.uniform(0.5, 1.5, 2)
            fill = (of.choice(palette) + of.normal(0, 15, 3)).clip(0, 255).astype(int)
            shape = draw.ellipse if of.integers(3) else draw.rectangle
            shape((x - wide, y - high, x + wide, y + high), fill=tuple(fill.tolist()))
        found.append(picture)
    return found


def main(folder: Path, files: list[str]) -> None:
    pipeline = ip.load("tabletop", device="cpu", dtype="float32")
    encoder = ReferenceEncoder(pipeline._model)

    def embeds(pictures: list[Image.Image]) -> Tensor:
        with torch.no_grad():
            return torch.cat([encoder.image_embed(picture) for picture in pictures])

    known = KnownPictures.of(embeds(scenes(SEEN, 1)), embeds(scenes(HELD_OUT, 900_001)), SHARE)
    known.save(folder)
    record_hashes(folder)
    of = np.random.default_rng(0)
    others = {
        "held-out scenes": scenes(1000, 910_001),
        "noise": noise(300, of),
        "dead leaves": leaves(300, of),
        **({"your pictures": [read_image(file) for file in files]} if files else {}),
    }
    for name, pictures in others.items():
        distance = known.distance(embeds(pictures))
        far = (distance > known.limit).float().mean().item()
        print(f"{name}: {far:.1%} of {len(pictures)} beyond {known.limit:.1f}; ", end="")
        print(f"distances {distance.min().item():.1f} to {distance.max().item():.1f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
