"""Values of options that need more than a type."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

from ipadapter_demo.errors import RequestError
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


def structure(text: str) -> tuple[str, str, Path]:
    try:
        kind, annotator, file = structure_parts(text)
    except RequestError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("structure ")) from None
    return kind, annotator or "", Path(file)
