"""Pictures that a browser or an API client sends, checked before they are used.

Listeners here use `preprocess=False`: gradio would open every upload itself, before any check of
ours, and answer a damaged one with an error that helps nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image, ImageChops

from ipadapter_demo import checks
from ipadapter_demo.embeds import read_embeds
from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import (
    flatten_image,
    read_image,
    resize_image,
    shrink_image,
    shrink_to_area,
)
from ipadapter_demo.masks import MaskMeans, flatten_mask, grown, painted_mask
from ipadapter_demo.room import room_for, size_by_header
from ipadapter_demo.size_limits import MAX_AREA
from ipadapter_demo.ui.run.say import failure

MAX_LAYERS = 20  # of paint
MAX_GROW = 200  # pixels
MAX_INPAINT_SIDE = 2048  # the result has the size of the picture, so more of it is kept


@dataclass(frozen=True, slots=True)
class Painting:
    """A picture and what was painted over it (white = here), and its size before it was shrunk."""

    image: Image.Image
    mask: Image.Image
    size: tuple[int, int]

    def mask_with(
        self,
        more: Image.Image | None,
        means: MaskMeans = "white",
        invert: bool = False,
        grow: int = 0,
    ) -> Image.Image:
        """The painted mask together with `more`, a mask of the size that the picture was uploaded
        in, in which what `means` here is here; then inverted, and grown by pixels of that size."""
        mask, grow = self.mask, checks.integer("mask_grow", grow, -MAX_GROW, MAX_GROW)
        if more is not None:
            more = flatten_mask(more, "mask", means)
            _check_size("mask", more, self.size)
            mask = ImageChops.lighter(mask, resize_image(more, self.image.size))
        if invert:
            mask = ImageChops.invert(mask)
        return grown(mask, round(grow * self.image.width / self.size[0]))


def value_from_widget(component: gr.Component, value: object, field: str) -> Any:  # noqa: ANN401 - the widget's own type
    """The value of one widget: pictures decoded, embeds read, all else as it came. A mask may still
    be transparent: another widget says what in it means here. A picture is one already."""
    if isinstance(value, Image.Image):
        return value
    if isinstance(component, gr.File):
        return None if value is None else read_embeds(path_of_upload(value, field), field)
    if isinstance(component, gr.ImageEditor):
        return painting_from_editor(value, field)
    if isinstance(component, gr.Image):
        if component.image_mode == "L":
            return None if value is None else _mask_read(value, field)
        return image_from_upload(value, field)
    return value


def image_from_upload(upload: object, field: str) -> Image.Image | None:
    """The uploaded picture; None where nothing was uploaded. Every picture of a request travels
    inside its results, so it has no more pixels than a result may have."""
    if upload is None:
        return None
    path = path_of_upload(upload, field)
    with room_for(path):
        return shrink_to_area(flatten_image(read_image(path, field), field), MAX_AREA)


def mask_from_upload(upload: object, field: str, means: MaskMeans = "white") -> Image.Image | None:
    """The uploaded mask in its own size, white = here; None where nothing was uploaded."""
    if upload is None:
        return None
    path = path_of_upload(upload, field)
    with room_for(path):
        return flatten_mask(read_image(path, field), field, means)


def painting_from_editor(value: object, field: str) -> Painting | None:
    """Picture and painted layers of an ImageEditor, or an upload alone; None where there is no
    picture yet."""
    if value is None:
        return None
    if isinstance(value, Mapping) and "path" in value:
        value = {"background": value, "layers": []}
    if not isinstance(value, Mapping) or not isinstance(value.get("layers"), list):
        raise RequestError(f"{field} must hold a background and layers, got {value!r:.80}")
    if value.get("background") is None:
        return None
    if len(value["layers"]) > MAX_LAYERS:  # before each is decoded
        raise RequestError(
            f"{field}.layers must have at most {MAX_LAYERS} entries, got {len(value['layers'])}"
        )
    path = path_of_upload(value["background"], field)
    with room_for(path):
        image = flatten_image(read_image(path, field), field)
        mask = Image.new("L", image.size, 0)
        for upload in value["layers"]:
            layer = painted_mask(_layer(upload, f"{field}.layers", image.size), f"{field}.layers")
            mask = ImageChops.lighter(mask, layer)
        small = shrink_image(image, MAX_INPAINT_SIDE)
        return Painting(small, resize_image(mask, small.size), image.size)


def editor_value_from_image(image: Image.Image | str) -> dict[str, object]:
    """The value of an ImageEditor for a picture without paint.

    Layers are never given to it: gradio 6.31 does not show them, or, where a composite comes with
    them, takes that for the picture.
    """
    return {"background": image, "layers": [], "composite": None}


def path_of_upload(upload: object, field: str) -> Path:
    """Path of the upload in gradio's folder. Any other path a client names is refused unread."""
    path = upload.get("path") if isinstance(upload, Mapping) else None
    if not isinstance(path, str):
        raise RequestError(f"{field} must be an uploaded file, got {upload!r:.80}")
    if "\0" in path:
        raise RequestError(f"{field} must be an uploaded file")
    resolved = Path(path).resolve()
    if not resolved.is_relative_to(Path(get_upload_folder()).resolve()):
        raise RequestError(f"{field} must be an uploaded file")
    if not resolved.is_file():
        raise RequestError(f"{field} is gone: uploads stay for an hour, upload it again")
    return resolved


def refuse_addresses(page: gr.Blocks) -> None:
    """gradio would fetch what a visitor names as a file's address, before any check of ours."""
    for block in page.blocks.values():
        if isinstance(block, gr.components.Component):
            _refuse_addresses(block)


def _refuse_addresses(block: gr.Component) -> None:
    move = block.async_move_resource_to_block_cache

    async def move_upload(url_or_file_path: str | Path | None) -> str | None:
        if str(url_or_file_path).lower().startswith(("http://", "https://")):
            raise failure("a file must be uploaded: no address is fetched")
        return await move(url_or_file_path)

    block.async_move_resource_to_block_cache = move_upload


def _mask_read(upload: object, field: str) -> Image.Image:
    with room_for(path_of_upload(upload, field)):
        return _read(upload, field)


def _read(upload: object, field: str) -> Image.Image:
    return read_image(path_of_upload(upload, field), field)


def _layer(upload: object, field: str, size: tuple[int, int]) -> Image.Image:
    """Of paint, in the size of the picture; a larger one is not decoded."""
    said = size_by_header(path_of_upload(upload, field))
    if said is not None and said[0] * said[1] > size[0] * size[1]:
        raise _wrong_size(field, said, size)
    image = _read(upload, field)
    _check_size(field, image, size)
    return image


def _check_size(field: str, mask: Image.Image, size: tuple[int, int]) -> None:
    if mask.size != size:
        raise _wrong_size(field, mask.size, size)


def _wrong_size(field: str, got: tuple[int, int], size: tuple[int, int]) -> RequestError:
    return RequestError(
        f"{field} must have the size of the picture, {size[0]}x{size[1]}, got {got[0]}x{got[1]}"
    )
