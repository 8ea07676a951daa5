"""Held-out scenes to draw and to score by: their pictures, their truth, and how a picture scores.

Chance is measured, not assumed: the same pictures compared with the truth of other scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ipadapter_demo.evaluation.attribute_classifier import (
    CLASSIFIER_SIZE,
    COUNTED,
    AttributeClassifier,
    load_attribute_classifier,
    measures_of_scenes,
    truth_of_scenes,
)
from ipadapter_demo.evaluation.drawing import Draw
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.request import GenerateRequest, Reference
from ipadapter_demo.tabletop.files import pictures_of
from ipadapter_demo.tabletop.scene import Scenes


class Score(TypedDict):
    """Shares of pictures read right, and what chance makes of them."""

    mean: float
    chance_mean: float
    by_attribute: dict[str, dict[str, float]]


class Scorer:
    """Scenes, their pictures (of `size` pixels a side) and truth, and the classifier that holds
    other pictures against them."""

    def __init__(self, scenes: Scenes, size: int = CLASSIFIER_SIZE) -> None:
        self.scenes = scenes
        self.classifier: AttributeClassifier = load_attribute_classifier(
            TABLETOP.folder / "attribute_classifier.safetensors"
        )
        self.images = list(pictures_of(scenes, size))
        self.truth, self.exists = truth_of_scenes(scenes)
        self.measures, there = measures_of_scenes(scenes)
        self.exists |= there

    def ahead(self, by: int) -> Tensor:
        """For every scene the one `by` places on."""
        return (torch.arange(len(self.scenes)) + by) % len(self.scenes)

    def score(
        self,
        images: Sequence[Image.Image],
        names: Sequence[str] | None = None,
        of: Tensor | None = None,
        named: Sequence[Collection[str]] | None = None,
    ) -> Score:
        """Share read right per attribute, chance beside it, and the mean over attributes.

        Picture i is held against scene of[i], by default scene i, in the attributes named[i],
        by default those COUNTED.
        """
        of = self.ahead(0) if of is None else of
        read = self.classifier.classify(images)
        counts = {
            name: torch.tensor([named is None or name in named[i] for i in range(len(images))])
            for name in names or COUNTED
        }
        names = [name for name in counts if (self.exists[name][of] & counts[name]).any()]
        right = {name: self._share(read, name, of, counts[name]) for name in names}
        # the truth of ten scenes that had no part in it
        others = [(of + k) % len(self.scenes) for k in range(2, 12)]
        chance = {
            n: float(np.mean([self._share(read, n, o, counts[n]) for o in others])) for n in names
        }
        return {
            "mean": round(float(np.mean(list(right.values()))), 4),
            "chance_mean": round(float(np.mean(list(chance.values()))), 4),
            "by_attribute": {
                n: {"right": round(right[n], 4), "chance": round(chance[n], 4)} for n in names
            },
        }

    def _share(self, read: dict[str, Tensor], name: str, of: Tensor, counts: Tensor) -> float:
        """A second solid's attributes count as right only in a picture with two solids."""
        truth, exists = self.truth[name][of], self.exists[name][of] & counts
        hit = read[name] == truth
        if name.startswith("second"):
            hit &= read["count"] == 1
        return int(hit[exists].sum()) / max(int(exists.sum()), 1)


class Benchmark(Scorer):
    """A scorer that draws: a picture for each of its scenes."""

    def __init__(
        self, info: ModelInfo, draw: Draw, scenes: Scenes, size: int = CLASSIFIER_SIZE
    ) -> None:
        super().__init__(scenes, size)
        self.info, self.draw = info, draw

    def reference(self, index: int) -> tuple[Reference, ...]:
        """The picture of a scene as the one image prompt."""
        return (Reference(image=self.images[index]),)

    def request(self, **parts: Any) -> GenerateRequest:
        """At the model's default settings. It names the usual LoRAs, as what is kept of it says
        only what it names."""
        usual = {"loras": self.info.usual_loras or None}
        return GenerateRequest(**usual | self.info.recommended.fields_beside(parts) | parts)

    def each(self, parts_of: Callable[[int], dict[str, Any]]) -> list[Image.Image]:
        """A picture for every scene; scene i starts from seed i."""
        return self.draw([self.request(seed=i, **parts_of(i)) for i in range(len(self.scenes))])

    @cached_property
    def variations(self) -> list[Image.Image]:
        """Empty prompt, the scene's own picture as reference; two experiments read it."""
        return self.each(lambda i: {"references": self.reference(i)})

    @cached_property
    def unprompted(self) -> list[Image.Image]:
        """The same at λ = 0: what the base model makes of nothing. Two experiments read it."""
        return self.each(lambda i: {"references": self.reference(i), "image_scale": 0.0})
