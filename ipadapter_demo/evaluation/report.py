"""The report: how often what text names, a reference carries or a map fixes comes out right.

Scenes come from seeds that no recipe draws from. A generated picture is read by the attribute
reader and compared with the truth of its scene. Chance is measured, not assumed: the same pictures
compared with the truth of other scenes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from ipadapter_demo.evaluation.reader import AttributeReader, load_reader, truth_of_scenes
from ipadapter_demo.imaging import images_from_pixels
from ipadapter_demo.models.annotators import annotate
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.request import GenerateRequest, Inpaint, Reference, Structure
from ipadapter_demo.tabletop.caption import FULL, caption, floor_caption
from ipadapter_demo.tabletop.render import FIRST_SOLID, render
from ipadapter_demo.tabletop.scene import HELD_OUT_SEED, Scenes, sample_scenes

EDGE_TOLERANCE = 2  # pixels
SOLID_NAMES = ("solid_shape", "solid_colour", "solid_texture")
FLOOR_NAMES = ("floor_colour", "floor_texture")
COLOUR_NAMES = ("solid_colour", "floor_colour", "wall_colour")

Progress = Callable[[str], None]


def evaluate(pipeline: ImagePromptPipeline, scenes: int = 200, seed: int = HELD_OUT_SEED,
             progress: Progress = lambda _: None) -> dict[str, Any]:
    """All experiments at the model's default settings. Runs for minutes: `scenes` pictures each."""
    began = time.monotonic()
    bench = Bench(pipeline, sample_scenes(scenes, seed))
    report: dict[str, Any] = {
        "scenes": scenes,
        "seed": seed,
        "guidance": pipeline.info.guidance,
        "steps": pipeline.info.steps,
        "facts": pipeline.facts,
    }
    for experiment in (text_alone, variation, no_image, image_and_text, structure, inpainting):
        progress(experiment.__name__)
        report[experiment.__name__] = experiment(bench)
    report["minutes"] = round((time.monotonic() - began) / 60, 1)
    return report


class Bench:
    """Held-out scenes, their pictures and truth, and the reader."""

    def __init__(self, pipeline: ImagePromptPipeline, scenes: Scenes) -> None:
        self.pipeline, self.scenes = pipeline, scenes
        self.reader: AttributeReader = load_reader(TABLETOP.folder / "reader.safetensors")
        rendered = [render(scenes[i : i + 32]) for i in range(0, len(scenes), 32)]
        self.images = images_from_pixels(torch.cat([r.pixels for r in rendered]) * 2 - 1)
        self.ids = torch.cat([r.ids for r in rendered])
        self.truth, self.exists = truth_of_scenes(scenes)

    def generate(self, **parts: Any) -> Image.Image:
        """One picture at the model's default settings."""
        info = self.pipeline.info
        request = GenerateRequest(**{"guidance": info.guidance, "steps": info.steps} | parts)
        return self.pipeline.generate(request).images[0]

    def each(self, parts_of: Callable[[int], dict[str, Any]]) -> list[Image.Image]:
        """A picture for every scene; scene i starts from seed i."""
        return [self.generate(seed=i, **parts_of(i)) for i in range(len(self.scenes))]

    @cached_property
    def variations(self) -> list[Image.Image]:
        """Empty prompt, λ = 1, the scene's own picture as reference; two experiments look at it."""
        return self.each(lambda i: {"references": _reference(self, i)})

    def score(self, images: Sequence[Image.Image], names: Sequence[str] | None = None,
              ahead: int = 0) -> dict[str, Any]:
        """Share read right per attribute, chance beside it, and the mean over attributes.

        Picture i is held against scene i + `ahead`.
        """
        read = self.reader.read(images)
        names = [name for name in names or self.truth if self.exists[name].any()]
        right = {name: self._share(read, name, ahead) for name in names}
        others = range(ahead + 2, ahead + 12)  # the truth of ten scenes that had no part in it
        chance = {n: float(np.mean([self._share(read, n, k) for k in others])) for n in names}
        return {
            "mean": round(float(np.mean(list(right.values()))), 4),
            "chance_mean": round(float(np.mean(list(chance.values()))), 4),
            "by_attribute": {
                n: {"right": round(right[n], 4), "chance": round(chance[n], 4)} for n in names
            },
        }

    def _share(self, read: dict[str, Tensor], name: str, ahead: int) -> float:
        """A second solid's attributes count as right only in a picture with two solids."""
        truth, exists = (t[name].roll(-ahead) for t in (self.truth, self.exists))
        hit = read[name] == truth
        if name.startswith("second"):
            hit &= read["count"] == 1
        return hit[exists].float().mean().item()


def text_alone(bench: Bench) -> dict[str, Any]:
    """A full caption, no reference: everything it names. Captions are silent about light."""
    rng = random.Random(0)
    images = bench.each(lambda i: {"prompt": caption(bench.scenes, i, FULL, rng)})
    return bench.score(images, [name for name in bench.truth if name != "light_side"])


def variation(bench: Bench) -> dict[str, Any]:
    """Empty prompt, λ = 1: what the reference carries over."""
    return bench.score(bench.variations)


def no_image(bench: Bench) -> dict[str, Any]:
    """The same at λ = 0: nothing may carry over."""
    return bench.score(bench.each(
        lambda i: {"references": _reference(bench, i), "image_scale": 0.0}
    ))


def image_and_text(bench: Bench) -> dict[str, Any]:
    """The text names another scene's floor, the reference brings the solid."""
    count = len(bench.scenes)
    images = bench.each(lambda i: {
        "prompt": floor_caption(bench.scenes, (i + 1) % count),
        "references": _reference(bench, i),
        "image_scale": bench.pipeline.info.text_image_scale,
    })
    return {
        "image_scale": bench.pipeline.info.text_image_scale,
        "floor_named_by_text": bench.score(images, FLOOR_NAMES, ahead=1),
        "solid_of_reference": bench.score(images, SOLID_NAMES),
    }


def structure(bench: Bench) -> dict[str, Any]:
    """Edges of one scene, appearance of another: F1 of the edges, colours of the reference."""
    count = len(bench.scenes)
    sources = [bench.images[(i + 1) % count] for i in range(count)]
    maps = [annotate("canny", source) for source in sources]
    images = bench.each(lambda i: {
        "references": _reference(bench, i),
        "structures": (Structure(kind="canny", image=maps[i]),),
    })
    colours = bench.score(images, COLOUR_NAMES)
    return {
        "edge_f1": _mean_f1(images, maps),
        "edge_f1_without_map": _mean_f1(bench.variations, maps),
        "edge_f1_of_rendered_source": _mean_f1(sources, maps),
        "colours_of_reference": colours,
    }


def inpainting(bench: Bench) -> dict[str, Any]:
    """Replace the first solid's surroundings by another scene's look: nothing outside changes."""
    count = len(bench.scenes)
    masks = [_solid_mask(bench, i) for i in range(count)]
    images = bench.each(lambda i: {
        "references": _reference(bench, (i + 1) % count),
        "inpaint": Inpaint(image=bench.images[i], mask=masks[i]),
    })
    outside, inside = 0, []
    for image, given, mask in zip(images, bench.images, masks, strict=True):
        change = np.abs(np.asarray(image, dtype=int) - np.asarray(given, dtype=int)).max(axis=2)
        painted = np.asarray(mask) > 0
        outside = max(outside, int(change[~painted].max()))
        inside.append(float(change[painted].mean()))
    return {
        "largest_change_outside": outside,
        "mean_change_inside": round(float(np.mean(inside)), 2),
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


def _mean_f1(images: Sequence[Image.Image], maps: Sequence[Image.Image]) -> float:
    return round(float(np.mean([edge_f1(i, m) for i, m in zip(images, maps, strict=True)])), 4)


def _reference(bench: Bench, index: int) -> tuple[Reference, ...]:
    return (Reference(image=bench.images[index]),)


def _solid_mask(bench: Bench, index: int) -> Image.Image:
    """The box around the first solid, a little larger than it."""
    rows, columns = torch.nonzero(bench.ids[index] == FIRST_SOLID, as_tuple=True)
    mask = np.zeros(bench.ids[index].shape, dtype=np.uint8)
    top, left = max(int(rows.min()) - 6, 0), max(int(columns.min()) - 6, 0)
    mask[top : int(rows.max()) + 7, left : int(columns.max()) + 7] = 255
    return Image.fromarray(mask)
