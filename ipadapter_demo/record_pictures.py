"""The pictures of a record, by the SHA-256 of their files: each is written, counted and decoded
once."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections.abc import Mapping

from PIL import Image

from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import MAX_PIXELS, flatten_image, read_image
from ipadapter_demo.masks import flatten_mask

MAX_RECORD_PIXELS = 2 * MAX_PIXELS  # of all different pictures together, once decoded


class Encoded:
    """The files of a request on their way out: `texts` are base64, by the SHA-256 of the file."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self._pixels: dict[str, int] = {}

    def picture(self, image: Image.Image) -> str:
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=1)  # written with each request: speed before size
        digest = self.file(file.getvalue())
        self._pixels[digest] = image.width * image.height
        return digest

    def file(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.texts[digest] = base64.b64encode(content).decode()
        return digest

    def check_pixels(self) -> None:
        """Raises RequestError for more than `Decoded` would read again."""
        pixels = sum(self._pixels.values())
        if pixels > MAX_RECORD_PIXELS:
            raise RequestError(
                f"the pictures of a request may have {MAX_RECORD_PIXELS:,} pixels in all, "
                f"got {pixels:,}: use smaller ones"
            )


class Decoded:
    """The files of an untrusted record, decoded on demand within MAX_RECORD_PIXELS."""

    def __init__(self, texts: object) -> None:
        if not isinstance(texts, Mapping) or not all(isinstance(v, str) for v in texts.values()):
            raise RequestError("record.images must map SHA-256 sums to base64 text")
        self._texts = texts
        self._flat: dict[tuple[str, bool], Image.Image] = {}
        self._left = MAX_RECORD_PIXELS

    @property
    def length(self) -> int:
        """Characters of base64."""
        return sum(map(len, self._texts.values()))

    def file(self, digest: object, where: str) -> bytes:
        return self._content(self._known(digest, where), where)

    def picture(self, digest: object, where: str, is_mask: bool) -> Image.Image:
        """Flat, so that all that name it share it: a copy for each might take gigabytes."""
        key = self._known(digest, where), is_mask
        if key not in self._flat:
            image = read_image(self._content(key[0], where), where)
            self._left -= image.width * image.height
            if self._left < 0:
                raise RequestError(
                    f"record may hold {MAX_RECORD_PIXELS:,} pixels of pictures, has more"
                )
            self._flat[key] = (flatten_mask if is_mask else flatten_image)(image, where)
        return self._flat[key]

    def _known(self, digest: object, where: str) -> str:
        if not isinstance(digest, str) or digest not in self._texts:
            raise RequestError(f"{where} names a picture that the record does not hold")
        return digest

    def _content(self, digest: str, where: str) -> bytes:
        try:
            content = base64.b64decode(self._texts[digest], validate=True)
        except (binascii.Error, ValueError) as error:
            raise RequestError(f"{where} is not base64: {error}") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise RequestError(f"{where} is damaged: its SHA-256 is not {digest:.12}...")
        return content
