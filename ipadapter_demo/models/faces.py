"""Faces in a picture, by InsightFace where a user has installed it.

Its package is no requirement, and nothing is fetched: its weights may be used for non-commercial
research only, which whoever fetches them has to agree to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ipadapter_demo.errors import RequestError
from ipadapter_demo.models.sources import file_sha256

PACK = "buffalo_l"  # which FaceID adapters were trained with
_HOME = Path("~/.insightface")
_LICENCE = "its weights are for non-commercial research only"
_OR_A_FILE = "or give the face as a file of its embeds"
_SIDES = (640, 512, 384, 256)  # a face that fills its picture is found at a small size alone
_detecting = Lock()  # the size is one of the detector, which all threads share
_PORTRAIT = 224


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """A face: `box` is (left, upper, right, lower) in the picture, `embedding` (512,) of length 1,
    `portrait` the face cut out upright, and `recogniser` the SHA-256 of what made the embedding."""

    box: tuple[float, float, float, float]
    embedding: np.ndarray
    portrait: Image.Image
    recogniser: str

    @property
    def area(self) -> float:
        left, upper, right, lower = self.box
        return (right - left) * (lower - upper)


Analyse = Callable[[Image.Image], Sequence[Face]]


def from_left(faces: Sequence[Face]) -> list[Face]:
    """In the order of their numbers."""
    return sorted(faces, key=lambda face: face.box[0] + face.box[2])


def chosen_face(faces: Sequence[Face], number: int) -> Face:
    """The largest for 0, else the one of this number, from left to right. Raises RequestError."""
    if not faces:
        raise RequestError("reference.image shows no face that InsightFace finds")
    if number == 0:
        return max(faces, key=lambda face: face.area)
    if number > len(faces):
        raise RequestError(
            f"reference.face must be 0 for the largest, or 1 to {len(faces)}, the number of faces "
            f"found, from left to right, got {number}"
        )
    return from_left(faces)[number - 1]


def numbered_faces(picture: Image.Image, faces: Sequence[Face]) -> Image.Image:
    """The picture with a box around each face, and its number."""
    shown = picture.copy()
    draw, size = ImageDraw.Draw(shown), max(12, min(picture.size) // 16)
    for number, face in enumerate(from_left(faces), 1):
        draw.rectangle(face.box, outline="white", width=max(2, size // 8))
        draw.text(
            (face.box[0] + size // 3, face.box[1]),
            str(number),
            "white",
            font_size=size,
            stroke_width=2,
            stroke_fill="black",
        )
    return shown


def find_faces(picture: Image.Image) -> list[Face]:
    """By InsightFace. Raises RequestError where its package or its weights are not installed."""
    analysis, align = _insightface()
    pixels = np.ascontiguousarray(np.asarray(picture.convert("RGB"))[:, :, ::-1])
    recogniser = file_sha256(Path(analysis.models["recognition"].model_file))
    found: Sequence[Any] = ()
    with _detecting:
        for side in _SIDES:
            analysis.det_model.input_size = (side, side)
            if found := analysis.get(pixels):
                break
    return [
        Face(
            tuple(map(float, face.bbox)),  # type: ignore[arg-type] # four of them
            np.asarray(face.normed_embedding, np.float32),
            Image.fromarray(
                align.norm_crop(pixels, landmark=face.kps, image_size=_PORTRAIT)[:, :, ::-1]
            ),
            recogniser,
        )
        for face in found
    ]


@cache
def _insightface() -> tuple[Any, Any]:
    """Its analysis and its module that cuts faces out."""
    try:
        from insightface.app import FaceAnalysis
        from insightface.utils import face_align
    except ImportError as error:
        raise RequestError(
            "a face in a picture is found by InsightFace, which is not installed: pip install "
            f"insightface onnxruntime ({_LICENCE}), {_OR_A_FILE}"
        ) from error
    folder = _HOME / "models" / PACK
    if not any(folder.expanduser().glob("*.onnx")):
        raise RequestError(
            f"a face in a picture is found by InsightFace's weights {PACK}, and none lie in "
            f'{folder}: fetch them with python -c "from insightface.app import FaceAnalysis; '
            f"FaceAnalysis('{PACK}')\" ({_LICENCE}), {_OR_A_FILE}"
        )
    with redirect_stdout(StringIO()):  # which it tells of each file
        analysis = FaceAnalysis(
            PACK,
            root=str(_HOME),
            allowed_modules=["detection", "recognition"],
            providers=["CPUExecutionProvider"],
        )
        analysis.prepare(ctx_id=-1)
    return analysis, face_align
