"""Image embeds: an image encoder's output as an adapter's projection takes it, in the place of the
picture that it was made of.

They are kept as a safetensors file: the tensor `image_embeds`, (squares, width) of an adapter that
reads the projected embedding and (squares, states, width) of one that reads the encoder's states,
in float32 or float16; and in the metadata, under `ipadapter_demo`, what made them:

    {"schema": 1, "encoder": SHA-256, "adapter": "linear", "fit": "crop", "names": ["cat.png"]}

Embeddings of faces, which FaceID adapters read, are kept in the same way: (faces, 512), for the
adapter "face", with the SHA-256 of the network that recognises faces as the encoder's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ipadapter_demo import checks
from ipadapter_demo.errors import RequestError
from ipadapter_demo.files import write_file
from ipadapter_demo.fit import MAX_SQUARES
from ipadapter_demo.imaging import read_bytes

MAX_EMBEDS_BYTES = 8 * 2**20  # 4 squares of 257 states of 1280, in float32, take 5 MiB
MAX_HEADER_BYTES = 100_000
MAX_NAMES, MAX_NAME = 100, 200
ENDING = ".safetensors"
TENSOR, KEY = "image_embeds", "ipadapter_demo"
FACE, FACE_WIDTH = "face", 512  # the kind of adapter that reads embeddings of faces, and their size


@dataclass(frozen=True, slots=True)
class ImageEmbeds:
    """Embeds by the bytes of their file, untrusted until they are one of these.

    `encoder` is the SHA-256 of the image encoder's weights, `adapter` the kind of adapter that
    reads them, `fit` and `names` are of the pictures. Raises RequestError for any other file.
    """

    content: bytes = field(repr=False)
    encoder: str = field(init=False, compare=False)
    adapter: str = field(init=False, compare=False)
    fit: str = field(init=False, compare=False)
    names: tuple[str, ...] = field(init=False, compare=False)
    shape: tuple[int, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        made, values = _header(self.content), _values(self.content)
        for name in ("encoder", "adapter", "fit"):
            object.__setattr__(self, name, made[name])
        object.__setattr__(self, "names", tuple(made["names"]))
        object.__setattr__(self, "shape", values.shape)
        if self.of_faces and self.shape[1:] != (FACE_WIDTH,):
            raise RequestError(
                f"embeds of a face must be {FACE_WIDTH} wide, as InsightFace makes them, got "
                f"{' x '.join(map(str, self.shape[1:]))}"
            )

    @classmethod
    def of(
        cls,
        values: np.ndarray,
        *,
        encoder: str,
        adapter: str,
        fit: str,
        names: Sequence[str] = (),
    ) -> ImageEmbeds:
        """`values` as in the file, each square a row."""
        from safetensors.numpy import save

        made = {
            "schema": 1,
            "encoder": encoder,
            "adapter": adapter,
            "fit": fit,
            "names": [name[:MAX_NAME] for name in names][:MAX_NAMES],
        }
        # one key: of several the order would be another in each process
        return cls(save({TENSOR: np.ascontiguousarray(values)}, {KEY: json.dumps(made)}))

    def named(self, *names: str) -> ImageEmbeds:
        """The same, of pictures of these names."""
        made = {name: getattr(self, name) for name in ("encoder", "adapter", "fit")}
        return self.of(self.values, names=names, **made)

    @property
    def values(self) -> np.ndarray:
        return _values(self.content)

    @property
    def of_faces(self) -> bool:
        """True for embeddings of faces, each a row, with nothing of a picture."""
        return self.adapter == FACE

    @property
    def squares(self) -> int:
        """How many pictures the adapter takes them for: those of `tile`, or one."""
        return self.shape[0]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def read_embeds(source: Path | str | bytes | BinaryIO, field: str = "file") -> ImageEmbeds:
    """The embeds in an untrusted file. Raises RequestError."""
    content = read_bytes(source, field)
    try:
        return ImageEmbeds(content)
    except RequestError as error:
        raise RequestError(f"{field}: {error}") from None


def is_embeds(name: str | Path) -> bool:
    """True for the name of a file of embeds, where pictures are named as well."""
    return str(name).lower().endswith(ENDING)


def save_embeds(target: Path | str, embeds: ImageEmbeds) -> None:
    """The whole file or none."""
    write_file(Path(target), embeds.content)


def average_embeds(embeds: Sequence[ImageEmbeds]) -> ImageEmbeds:
    """The mean of embeds of one encoder for one kind of adapter, each the mean of its squares.
    Raises RequestError for others."""
    if not embeds:
        raise RequestError("embeds: nothing to average")
    first = embeds[0]
    for other in embeds:
        of_one = (first.encoder, first.adapter, first.shape[1:])
        if (other.encoder, other.adapter, other.shape[1:]) != of_one:
            raise RequestError(
                "embeds must be of one image encoder and one kind of adapter to be averaged, got "
                f"{_said(first)} and {_said(other)}"
            )
    means = [one.values.astype(np.float64).mean(0, keepdims=True) for one in embeds]
    return ImageEmbeds.of(
        np.mean(means, axis=0).astype(first.values.dtype),
        encoder=first.encoder,
        adapter=first.adapter,
        fit=", ".join(dict.fromkeys(one.fit for one in embeds)),
        names=[name for one in embeds for name in one.names],
    )


def _said(embeds: ImageEmbeds) -> str:
    return f"{embeds.adapter} {embeds.shape[1:]} of the encoder {embeds.encoder:.12}..."


def _header(content: bytes) -> dict[str, Any]:
    """The metadata of an untrusted file: all that made the embeds."""
    if len(content) > MAX_EMBEDS_BYTES:
        raise RequestError(f"embeds must have at most {MAX_EMBEDS_BYTES:,} bytes")
    length = int.from_bytes(content[:8], "little")
    if not 0 < length <= min(MAX_HEADER_BYTES, len(content) - 8):
        raise RequestError("embeds must be a safetensors file of image embeds")
    try:
        made = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][KEY])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise RequestError("embeds must say what made them: they are of another program") from error
    if not isinstance(made, dict) or made.get("schema") != 1:
        raise RequestError("embeds must be of schema 1: they were written by a newer version")
    encoder, names = made.get("encoder"), made.get("names")
    if not isinstance(encoder, str) or not re.fullmatch("[0-9a-f]{64}", encoder):
        raise RequestError(f"embeds.encoder must be a SHA-256, got {encoder!r:.80}")
    checks.text("embeds.adapter", made.get("adapter"), MAX_NAME)
    checks.text("embeds.fit", made.get("fit"), MAX_NAME)
    if not isinstance(names, list) or len(names) > MAX_NAMES:
        raise RequestError(f"embeds.names must be at most {MAX_NAMES} names")
    for name in names:
        checks.text("embeds.names", name, MAX_NAME)
    return made


def _values(content: bytes) -> np.ndarray:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise RequestError(f"embeds cannot be read: {error!s:.80}") from error
    if set(tensors) != {TENSOR}:
        raise RequestError(f"embeds must hold {TENSOR} alone, got {', '.join(tensors):.80}")
    values = tensors[TENSOR]
    if values.dtype not in (np.float32, np.float16) or values.ndim not in (2, 3):
        raise RequestError(
            "embeds must be (squares, width) or (squares, states, width) in float32 or float16, "
            f"got {values.shape} in {values.dtype}"
        )
    if not 1 <= len(values) <= MAX_SQUARES or not values.size:
        raise RequestError(f"embeds must be of 1 to {MAX_SQUARES} squares, got {values.shape}")
    if not np.isfinite(values).all():
        raise RequestError("embeds must be finite numbers")
    return values
