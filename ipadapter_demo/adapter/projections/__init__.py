"""The variants of image adapters: a file each, and its line in the table."""

from __future__ import annotations

from ipadapter_demo.adapter.projections.base import Projection
from ipadapter_demo.adapter.projections.face import FacePlusProjection, FaceProjection
from ipadapter_demo.adapter.projections.linear import LinearProjection
from ipadapter_demo.adapter.projections.mlp import MLPProjection
from ipadapter_demo.adapter.projections.resampler import Resampler
from ipadapter_demo.adapter.projections.style import StyleProjection
from ipadapter_demo.adapter.shapes import Shapes

__all__ = [
    "PROJECTIONS",
    "FacePlusProjection",
    "FaceProjection",
    "LinearProjection",
    "MLPProjection",
    "Projection",
    "Resampler",
    "StyleProjection",
    "projection_from_shapes",
]

PROJECTIONS: tuple[type[Projection], ...] = (
    LinearProjection,
    Resampler,
    MLPProjection,
    FacePlusProjection,
    FaceProjection,
    StyleProjection,
)


def projection_from_shapes(shapes: Shapes) -> Projection:
    """An empty projection of the variant and sizes of a checkpoint. Raises CheckpointError."""
    for kind in PROJECTIONS:
        if projection := kind.from_shapes(shapes):
            return projection
    *others, last = (kind.title for kind in PROJECTIONS)
    prefix = "image_proj."
    found = sorted(key.removeprefix(prefix) for key in shapes.tensors if key.startswith(prefix))
    raise shapes.error(
        f"neither {', '.join(others)} nor {last} adapter; image_proj holds {found[:3]}"
    )
