"""Detectors that draw a structure map from a picture, by name.

Some are networks: their weights are fetched when such a map is first asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.segmentation import Segmenter
from ipadapter_demo.models.sources import Hub, Locate, fetched

CANNY = (100, 200)  # of 255, as the published networks were trained: arXiv 2302.05543, section 4
THRESHOLDS = ("low_threshold", "high_threshold")
MIN_CONTRAST = 0.05  # of all levels: a picture with less is taken to have no edges
MIN_SHARE = 0.001  # of the pixels: a map with less on it holds nothing
LEAST_SIDE = 64  # the detectors round sides to multiples of it
PALETTE_CELLS = 8  # cells along the shorter side, as in T2I-Adapter's colour palette: 512 / 64


@dataclass(frozen=True, slots=True)
class Detector:
    """A class, its weights if it is a network, how it is called, and the arguments that take the
    length of the shorter side."""

    kind: Callable[[], type[Any]]
    weights: Hub | None = None
    call: Mapping[str, float] = field(default_factory=dict)
    sides: tuple[str, ...] = ("detect_resolution", "image_resolution")


def _aux(name: str) -> Callable[[], type[Any]]:
    """A class of controlnet-aux, which takes seconds to import, and only structure needs it."""

    def kind() -> type[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about detectors that are not used here
            import controlnet_aux
        return getattr(controlnet_aux, name)

    return kind


_SHA256 = {
    "ControlNetHED.pth": "5ca93762ffd68a29fee1af9d495bf6aab80ae86f08905fb35472a083a4c7a8fa",
    "sk_model.pth": "c686ced2a666b4850b4bb6ccf0748031c3eda9f822de73a34b8979970d90f0c6",
    "sk_model2.pth": "30a534781061f34e83bb9406b4335da4ff2616c95d22a585c1245aa8363e74e0",
    "dpt_hybrid-midas-501f0c75.pt": "501f0c75b3bca7daec6b3682c5054c09b366765aef6fa3a09d03a5cb4b230853",  # noqa: E501
    "scannet.pt": "03dbf1600c51ee3d45c29f77b77bf1a3b7a24c3452dba62a4ae658f37330c209",
    "body_pose_model.pth": "25a948c16078b0f08e236bda51a385d855ef4c153598947c28c0d47ed94bb746",
    "hand_pose_model.pth": "b76b00d1750901abd07b9f9d8c98cc3385b8fe834a26d4b4f0aad439e75fc600",
    "facenet.pth": "8beb52e548624ffcc4aed12af7aee7dcbfaeea420c75609fee999fe7add79d43",
}


def _weights(megabytes: int, *files: str) -> Hub:
    return Hub(
        repo="lllyasviel/Annotators",
        revision="982e7edaec38759d914a963c48c4726685de7d96",
        files=files,
        sha256={file: _SHA256[file] for file in files},
        megabytes=megabytes,
    )


_HED = _weights(29, "ControlNetHED.pth")
DETECTORS = {
    "canny": Detector(_aux("CannyDetector"), call=dict(zip(THRESHOLDS, CANNY, strict=True))),
    "lineart": Detector(_aux("LineartStandardDetector"), sides=("detect_resolution",)),
    "lineart-fine": Detector(
        _aux("LineartDetector"), _weights(34, "sk_model.pth", "sk_model2.pth")
    ),
    "softedge": Detector(_aux("HEDdetector"), _HED, call={"safe": True}),
    "scribble": Detector(_aux("HEDdetector"), _HED, call={"scribble": True}),
    "depth": Detector(_aux("MidasDetector"), _weights(493, "dpt_hybrid-midas-501f0c75.pt")),
    "normal": Detector(_aux("NormalBaeDetector"), _weights(291, "scannet.pt")),
    "openpose": Detector(
        _aux("OpenposeDetector"),
        _weights(510, "body_pose_model.pth", "hand_pose_model.pth", "facenet.pth"),
        call={"include_hand": True, "include_face": True},
    ),
    "segmentation": Detector(
        lambda: Segmenter,
        Hub(
            repo="openmmlab/upernet-convnext-small",
            revision="550b68d291f9a7e4874065c6eec0676b2ba821e6",
            files=("config.json", "preprocessor_config.json", "pytorch_model.bin"),
            megabytes=328,
        ),
        sides=(),
    ),
    "shuffle": Detector(_aux("ContentShuffleDetector")),
}
# All that `annotate` draws, besides "none", which is the picture itself; the usual one first
DRAWN = ("canny", "palette", *(name for name in DETECTORS if name != "canny"))


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
    """True if (nearly) all of a map is of one colour."""
    pixels = np.asarray(drawn).reshape(-1, 3)
    return bool((pixels != np.median(pixels, axis=0)).any(-1).mean() < MIN_SHARE)


def _contrast(image: Image.Image) -> float:
    """The widest range of a channel, as a share of all levels. Noise, which a blur levels, is
    none."""
    extrema: Any = image.convert("RGB").filter(ImageFilter.GaussianBlur(2)).getextrema()
    return max(high - low for low, high in extrema) / 255


def _detected(
    annotator: str, image: Image.Image, call: Mapping[str, float], locate: Locate
) -> Image.Image:
    detector = DETECTORS[annotator]
    sizes = dict.fromkeys(detector.sides, max(LEAST_SIDE, min(image.size)))
    folder = None if detector.weights is None else locate(detector.weights)
    # shuffling draws from numpy's global generator; line art takes the median of nothing, if a
    # picture has no lines
    with _numpy_seeded(), warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        drawn = _loaded(annotator, folder)(image, **sizes, **call).convert("RGB")
    if drawn.size != image.size:  # those of controlnet-aux round sides to multiples of LEAST_SIDE
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
    kind = DETECTORS[annotator].kind()
    if folder is None:
        return kind()
    try:
        return kind.from_pretrained(str(folder))
    except Exception as error:  # a damaged file raises whatever its reader likes
        raise ModelError(
            f"the detector {annotator} cannot be loaded from {folder}: {error}"
        ) from error
