"""Values of options that need more than a type."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import read_image
from ipadapter_demo.layer_presets import checked_layers
from ipadapter_demo.own_files import structure_parts


def optional_path(text: str) -> Path | None:
    return None if text == "-" else Path(text)


def layers(text: str) -> str | tuple[float, ...]:
    given: object = text
    with suppress(ValueError):
        given = tuple(float(factor) for factor in text.split(","))
    try:
        return checked_layers("layers", given)
    except RequestError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("layers ")) from None


def optional_layers(text: str) -> str | tuple[float, ...] | None:
    return None if text == "-" else layers(text)


def structure(text: str) -> tuple[str, str, Path]:
    try:
        kind, annotator, file = structure_parts(text)
    except RequestError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("structure ")) from None
    return kind, annotator or "", Path(file)


def picture(option: str, path: Path) -> Image.Image:
    return read_image(path, f"{option} {path}")


def one_each(
    option: str, what: str, items: Sequence[object], given: list[Any] | None, default: object
) -> list[Any]:
    """A value for each item, from none, one for all of them, or just as many."""
    if given is None:
        return [default] * len(items)
    if not items or len(given) not in (1, len(items)):
        raise RequestError(
            f"{option}-{what} must be given once, or once for each {option}: "
            f"got {len(given)} for {len(items)}"
        )
    return given * (len(items) // len(given))
