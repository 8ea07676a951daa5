"""The experiments of the report: a benchmark in, figures out."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from transformers import CLIPTokenizer

from ipadapter_demo.evaluation.attribute_classifier import (
    HUES,
    PATTERN_COLOURS,
    PLACES,
    hue_error,
)
from ipadapter_demo.evaluation.benchmark import Benchmark
from ipadapter_demo.imaging import pixels_from_images
from ipadapter_demo.models.annotators import annotate
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.models.vae import VAE
from ipadapter_demo.request import Reference, Structure
from ipadapter_demo.tabletop.caption import FULL, RICH, caption, floor_caption, said_of
from ipadapter_demo.tabletop.wording import reworded

EDGE_TOLERANCE = 2  # pixels
LAYOUT_SEEDS = 8  # pictures of one reference, for one reference in LAYOUT_SEEDS
COPY = 0.04  # widths of the picture: solids all as close to the reference's are called a copy
SOLID_NAMES = ("solid_shape", "solid_colour", "solid_texture")
FLOOR_NAMES = ("floor_colour", "floor_texture")
COLOUR_NAMES = ("solid_colour", "floor_colour", "wall_colour")


def vae(benchmark: Benchmark) -> Mapping[str, object]:
    """Peak signal-to-noise ratio of encoding and decoding, mean over pictures."""
    ratios = [
        10 * torch.log10(4 / (decoded - pixels).square().mean(dim=(1, 2, 3)))
        for pixels, decoded in through_vae(benchmark.images)
    ]
    return {"psnr_db": round(torch.cat(ratios).mean().item(), 2)}


def through_vae(images: Sequence[Image.Image]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (B, 3, H, W) of pictures in [-1, 1], and of the same encoded and decoded."""
    vae = AutoencoderTiny.from_pretrained(TABLETOP.folder / "vae", local_files_only=True)
    vae = VAE(vae.float().eval())
    for start in range(0, len(images), 32):
        pixels = pixels_from_images(images[start : start + 32])
        yield pixels, vae.pixels_from_latents(vae.latents_from_pixels(pixels)).clamp(-1, 1)


def text_alone(benchmark: Benchmark) -> Mapping[str, object]:
    """A full caption, no reference: everything it names. Captions are silent about light."""
    rng = random.Random(0)
    images = benchmark.each(lambda i: {"prompt": caption(benchmark.scenes, i, FULL, rng)})
    names = [name for name in benchmark.truth if name not in ("light_side", *PATTERN_COLOURS)]
    return benchmark.score(images, names)


def free_words(benchmark: Benchmark) -> Mapping[str, object]:
    """The same in other words and in any order, some of it left out: everything that is named, in
    texts as long as the model reads."""
    tokenizer = CLIPTokenizer.from_pretrained(TABLETOP.folder / "tokenizer", local_files_only=True)
    rng = random.Random(0)

    def fits(text: str) -> bool:
        return len(tokenizer(text, verbose=False).input_ids) <= tokenizer.model_max_length

    said = [said_of(benchmark.scenes, i, RICH, rng) for i in range(len(benchmark.scenes))]
    texts = [reworded(each, rng, fits) for each in said]
    images = benchmark.each(lambda i: {"prompt": texts[i]})
    return benchmark.score(images, named=[each.named for each in said])


def variation(benchmark: Benchmark) -> Mapping[str, object]:
    """Empty prompt: what the reference carries over; exact hues and the colours of patterns too,
    which no caption names."""
    read = benchmark.classifier.classify(benchmark.variations)
    errors = {
        name: hue_error(read[name], benchmark.measures[name])[benchmark.exists[name]]
        for name in HUES
    }
    medians = {
        name: round(error.median().item(), 2) for name, error in errors.items() if len(error)
    }
    whole = torch.cat(list(errors.values())).median().item()
    return {
        "image_scale": benchmark.info.recommended.image_scale,
        **benchmark.score(benchmark.variations),
        "pattern_colours": benchmark.score(benchmark.variations, PATTERN_COLOURS),
        "median_hue_error_degrees": round(whole, 2),
        "median_hue_error_by_surface": medians,
    }


def variation_plus(benchmark: Benchmark) -> Mapping[str, object]:
    """The same by the Plus adapter."""
    images = benchmark.each(
        lambda i: {"references": (Reference(image=benchmark.images[i], adapter="plus"),)}
    )
    return {
        "image_scale": benchmark.info.recommended.image_scale,
        **benchmark.score(images),
        "pattern_colours": benchmark.score(images, PATTERN_COLOURS),
    }


def layout(benchmark: Benchmark) -> Mapping[str, object]:
    """Spread of places over seeds, and copies: an image prompt must not fix the layout."""
    indices = range(0, len(benchmark.scenes), LAYOUT_SEEDS)
    images = benchmark.draw(
        [
            benchmark.request(references=benchmark.reference(i), seed=10_000 + k)
            for i in indices
            for k in range(LAYOUT_SEEDS)
        ]
    )
    read = benchmark.classifier.classify(images)
    places = torch.stack([read[name] for name in PLACES], dim=1) / 2  # widths of the picture
    truth = torch.stack([benchmark.measures[name] for name in PLACES], dim=1) / 2
    of = torch.tensor([i for i in indices for _ in range(LAYOUT_SEEDS)])
    first = places[:, 0].unflatten(0, (-1, LAYOUT_SEEDS))
    return {
        "references": len(indices),
        "pictures_each": LAYOUT_SEEDS,
        "spread_over_seeds": _rounded(first.std(dim=1).mean(dim=0)),
        "spread_over_scenes": _rounded(truth[:, 0].std(dim=0)) if len(truth) > 1 else None,
        "copies": _copies(benchmark, places, read["count"], truth, of),
        "copies_by_chance": round(
            float(
                np.mean(
                    [
                        _copies(benchmark, places, read["count"], truth, (of + k) % len(truth))
                        for k in range(2, 12)
                    ]
                )
            ),
            4,
        ),
    }


def _copies(
    benchmark: Benchmark, places: Tensor, count: Tensor, truth: Tensor, of: Tensor
) -> float:
    """Share of pictures whose every solid stands where the reference's stands."""
    there = torch.stack([benchmark.exists[name][of] for name in PLACES], dim=1)
    near = ((places - truth[of]).norm(dim=2) <= COPY) | ~there
    same = near.all(dim=1) & (count == benchmark.truth["count"][of])
    return round(same.float().mean().item(), 4)


def _rounded(xy: Tensor) -> dict[str, float]:
    return {axis: round(value, 4) for axis, value in zip("xy", xy.tolist(), strict=True)}


def no_image(benchmark: Benchmark) -> Mapping[str, object]:
    """The same at λ = 0: nothing may carry over."""
    return benchmark.score(benchmark.unprompted)


def image_and_text(benchmark: Benchmark) -> Mapping[str, object]:
    """The text names another scene's floor, the reference brings the solid."""
    count = len(benchmark.scenes)
    images = benchmark.each(
        lambda i: {
            "prompt": floor_caption(benchmark.scenes, (i + 1) % count),
            "references": benchmark.reference(i),
        }
    )
    return {
        "image_scale": benchmark.info.recommended.text_image_scale,
        "floor_named_by_text": benchmark.score(images, FLOOR_NAMES, of=benchmark.ahead(1)),
        "solid_of_reference": benchmark.score(images, SOLID_NAMES),
    }


def edges(benchmark: Benchmark) -> Mapping[str, object]:
    """Edges of one scene, appearance of another: F1 of the edges, colours of the reference."""
    _, maps = _edge_maps(benchmark)
    images = benchmark.each(
        lambda i: {
            "references": benchmark.reference(i),
            "structures": (Structure(kind="canny", image=maps[i]),),
        }
    )
    return {
        "image_scale": benchmark.info.recommended.map_image_scale,
        "edge_f1": mean_edge_f1(images, maps),
        "colours_of_reference": benchmark.score(images, COLOUR_NAMES),
    }


def structure(benchmark: Benchmark) -> Mapping[str, object]:
    """`edges`, with the F1 without a map and at best beside it."""
    sources, maps = _edge_maps(benchmark)
    return {
        **edges(benchmark),
        "edge_f1_without_map": mean_edge_f1(benchmark.variations, maps),
        "edge_f1_of_rendered_source": mean_edge_f1(sources, maps),
    }


def _edge_maps(benchmark: Benchmark) -> tuple[list[Image.Image], list[Image.Image]]:
    """For every scene the picture of the next, and its edges."""
    sources = [benchmark.images[i] for i in benchmark.ahead(1).tolist()]
    return sources, [annotate("canny", source) for source in sources]


def palette(benchmark: Benchmark) -> Mapping[str, object]:
    """The colours of one scene, coarse, and nothing else: mean error of a cell's channel."""
    maps = [annotate("palette", benchmark.images[i]) for i in benchmark.ahead(1).tolist()]
    images = benchmark.each(
        lambda i: {
            "structures": (Structure(kind="palette", image=maps[i]),),
        }
    )
    return {
        "cell_error": mean_cell_error(images, maps),
        "cell_error_without_map": mean_cell_error(benchmark.unprompted, maps),
    }


def edge_f1(image: Image.Image, drawn: Image.Image, tolerance: int = EDGE_TOLERANCE) -> float:
    """F1 of the canny edges of `image` against a map, matches within `tolerance` pixels."""
    ours = np.asarray(annotate("canny", image).convert("L")) > 127
    theirs = np.asarray(drawn.convert("L")) > 127
    if not ours.any() or not theirs.any():
        return float(ours.any() == theirs.any())
    precision = (distance_transform_edt(~theirs)[ours] <= tolerance).mean()
    recall = (distance_transform_edt(~ours)[theirs] <= tolerance).mean()
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def mean_edge_f1(images: Sequence[Image.Image], maps: Sequence[Image.Image]) -> float:
    """The score of pictures against their maps."""
    return round(float(np.mean([edge_f1(i, m) for i, m in zip(images, maps, strict=True)])), 4)


def mean_cell_error(images: Sequence[Image.Image], palettes: Sequence[Image.Image]) -> float:
    """Grey levels by which a channel of a palette cell is off, mean over cells and pictures."""
    off = [
        np.abs(
            np.asarray(annotate("palette", ours), dtype=int) - np.asarray(drawn, dtype=int)
        ).mean()
        for ours, drawn in zip(images, palettes, strict=True)
    ]
    return round(float(np.mean(off)), 2)
