"""Detectors that draw a structure map from a picture, by name.

Some are networks: their weights are fetched when such a map is first asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.sources import Hub, Locate, fetched

CANNY = (100, 200)  # of 255, as the published networks were trained: arXiv 2302.05543, section 4
THRESHOLDS = ("low_threshold", "high_threshold")
MIN_CONTRAST = 0.05  # of all levels: a picture with less is taken to have no edges
MIN_SHARE = 0.001  # of the pixels: a map with less on it holds nothing
LEAST_SIDE = 64  # the detectors round sides to multiples of it
PALETTE_CELLS = 8  # cells along the shorter side, as in T2I-Adapter's colour palette: 512 / 64


@dataclass(frozen=True, slots=True)
class Detector:
    """A class of controlnet-aux, its weights if it is a network, and how it is called."""

    name: str
    weights: Hub | None = None
    load: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)


def _weights(megabytes: int, *files: str) -> Hub:
    return Hub(repo="lllyasviel/Annotators", files=files, megabytes=megabytes)


_HED = _weights(29, "ControlNetHED.pth")
DETECTORS = {
    "canny": Detector("CannyDetector", call=dict(zip(THRESHOLDS, CANNY, strict=True))),
    "lineart": Detector("LineartStandardDetector"),
    "lineart-fine": Detector("LineartDetector", _weights(34, "sk_model.pth", "sk_model2.pth")),
    "softedge": Detector("HEDdetector", _HED, call={"safe": True}),
    "scribble": Detector("HEDdetector", _HED, call={"scribble": True}),
    "depth": Detector("MidasDetector", _weights(493, "dpt_hybrid-midas-501f0c75.pt")),
    "normal": Detector("NormalBaeDetector", _weights(291, "scannet.pt")),
    "openpose": Detector(
        "OpenposeDetector",
        _weights(510, "body_pose_model.pth", "hand_pose_model.pth", "facenet.pth"),
        call={"include_hand": True, "include_face": True},
    ),
    "segmentation": Detector(
        "SamDetector",
        Hub(repo="ybelkada/segment-anything", folder="checkpoints",
            files=("sam_vit_b_01ec64.pth",), megabytes=375),
        load={"model_type": "vit_b", "filename": "sam_vit_b_01ec64.pth"},
    ),
    "shuffle": Detector("ContentShuffleDetector"),
}


def annotate(annotator: str, image: Image.Image, locate: Locate = fetched) -> Image.Image:
    """The map `annotator` draws from an RGB image, RGB and of the same size.

    Raises ModelError where a detector's weights are not at hand and `locate` cannot fetch them.
    """
    if annotator == "none":
        return image
    if annotator == "palette":
        return _palette(image)
    drawn = _detected(annotator, image, DETECTORS[annotator].call, locate)
    if annotator == "canny" and is_empty(drawn) and (found := _contrast(image)) >= MIN_CONTRAST:
        pale = {name: found * level for name, level in zip(THRESHOLDS, CANNY, strict=True)}
        drawn = _detected(annotator, image, pale, locate)
    return drawn


def is_empty(drawn: Image.Image) -> bool:
    """Whether (nearly) all of a map is of one colour."""
    pixels = np.asarray(drawn).reshape(-1, 3)
    return bool((pixels != np.median(pixels, axis=0)).any(-1).mean() < MIN_SHARE)


def _contrast(image: Image.Image) -> float:
    """The widest range of a channel, as a share of all levels. Noise, which a blur levels, is
    none."""
    extrema: Any = image.convert("RGB").filter(ImageFilter.GaussianBlur(2)).getextrema()
    return max(high - low for low, high in extrema) / 255


def _detected(annotator: str, image: Image.Image, call: dict[str, Any],
              locate: Locate) -> Image.Image:
    detector, side = DETECTORS[annotator], max(LEAST_SIDE, min(image.size))
    sizes = {"detect_resolution": side}
    if detector.name != "LineartStandardDetector":  # it returns the size it was given
        sizes["image_resolution"] = side
    folder = None if detector.weights is None else locate(detector.weights)
    # shuffling draws from numpy's global generator; line art takes the median of nothing, if a
    # picture has no lines
    with _numpy_seeded(), warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        drawn = _loaded(annotator, folder)(image, **sizes, **call).convert("RGB")
    if drawn.size != image.size:  # the detectors round sides to multiples of LEAST_SIDE
        drawn = drawn.resize(image.size, Image.Resampling.BILINEAR)
    return drawn


def _palette(image: Image.Image) -> Image.Image:
    """Mean colours of coarse cells (arXiv 2302.08453, section 3.3: spatial colour palette)."""
    scale = PALETTE_CELLS / min(image.size)
    cells = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    coarse = image.resize(cells, Image.Resampling.BOX)
    return coarse.resize(image.size, Image.Resampling.NEAREST)


_seeding = Lock()


@contextmanager
def _numpy_seeded() -> Iterator[None]:
    """The same picture always gives the same map, and nobody else's numbers change."""
    with _seeding:
        state = np.random.get_state()
        np.random.seed(0)
        try:
            yield
        finally:
            np.random.set_state(state)


@cache
def _loaded(annotator: str, folder: Path | None) -> Callable[..., Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about detectors that are not used here
        import controlnet_aux  # seconds to import, and only structure needs it

    detector = DETECTORS[annotator]
    kind = getattr(controlnet_aux, detector.name)
    if folder is None:
        return kind()
    try:
        return kind.from_pretrained(str(folder), **detector.load)
    except Exception as error:  # a damaged file raises whatever its reader likes
        raise ModelError(f"the detector {annotator} cannot be loaded from {folder}: "
                         f"{error}") from error
