"""Checksums of the pixels of finished cells, so that a later change of a picture is found.

A program that edits a PNG may keep its texts: the request is still there, the picture is not.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from PIL import Image

from ipadapter_demo.files import write_file

log = logging.getLogger(__name__)


class Sums:
    """The SHA-256 of pictures by name, in one JSON file that is always whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, name: str, image: Image.Image) -> None:
        sums = self._read() | {name: _sum(image)}  # read again: another job may add its own
        write_file(self.path, (json.dumps(sums, indent=1, sort_keys=True) + "\n").encode())

    def differs(self, name: str, image: Image.Image) -> bool:
        """True if `image` is another than the one added. Of an unknown one nothing can be said."""
        known = self._read().get(name)
        return known is not None and known != _sum(image)

    def _read(self) -> dict[str, str]:
        """Empty for a folder from before there were sums, or one whose file is no longer whole."""
        try:
            found = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            found = error
        if not isinstance(found, dict):
            log.warning("%s is damaged and not used: %.80s", self.path.name, found)
            return {}
        return found


def _sum(image: Image.Image) -> str:
    head = f"{image.mode} {image.width}x{image.height} ".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()
