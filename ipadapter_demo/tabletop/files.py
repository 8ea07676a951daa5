"""Scenes as files: pictures, maps and the truth behind them."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ipadapter_demo.imaging import images_from_pixels
from ipadapter_demo.json_values import Json
from ipadapter_demo.tabletop.caption import FULL, POOR, CaptionStyle, caption
from ipadapter_demo.tabletop.reference import reference_scenes
from ipadapter_demo.tabletop.render import FIRST_SOLID, Render, compile_for
from ipadapter_demo.tabletop.render import render as draw
from ipadapter_demo.tabletop.scene import Scenes

DEPTH_UNITS = 1000  # grey levels of a depth map per world unit


def write_scenes(
    folder: Path, scenes: Scenes, size: int = 128, maps: bool = False
) -> list[dict[str, Json]]:
    """Write NNNN.png for each scene, with `maps` NNNN-depth.png and the like beside it.

    Returns file, caption, truth and maps of each, ready for `json.dumps`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Json]] = []
    for part in scenes.chunks():
        entries += _write_chunk(folder, part, len(entries), size, maps)
    return entries


def write_shards(
    folder: Path,
    scenes: Scenes,
    pictures: Iterable[Image.Image],
    seed: int,
    rows: int = 1024,
    style: CaptionStyle = POOR,
) -> list[Path]:
    """Write the pictures of scenes as webdataset shards NNNNN.tar, in img2dataset's layout: a PNG,
    a caption and the truth of each, and as .reference.png what an image prompt shows of it
    (tabletop/reference.py). Shards that are there already stay.

    Captions are poor unless `style` says otherwise, as those of the web are: beside one that names
    everything an image prompt would have nothing left to say.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = [
        caption(scenes, index, style, random.Random(f"{seed}/{index}"))
        for index in range(len(scenes))
    ]
    shown = reference_scenes(scenes, words, seed)
    compile_for(len(scenes))
    paths = []
    images = iter(pictures)
    for number, start in enumerate(range(0, len(scenes), rows)):
        path = folder / f"{number:05d}.tar"
        part = slice(start, min(start + rows, len(scenes)))
        own = list(islice(images, part.stop - start))
        if not path.exists():
            beside = pictures_of(shown[part], own[0].width)
            truths = (scenes.truth(index) for index in range(start, part.stop))
            _write_shard(path, start, zip(own, beside, words[part], truths, strict=True))
        paths.append(path)
    return paths


def _write_shard(
    path: Path, start: int, rows: Iterable[tuple[Image.Image, Image.Image, str, Mapping[str, Json]]]
) -> None:
    temporary = path.with_suffix(".tmp")
    with tarfile.open(temporary, "w") as tar:
        for index, (image, reference, words, truth) in enumerate(rows, start):
            record = {"key": f"{index:09d}", "caption": words, "truth": truth}
            for ending, content in (
                ("png", _png(image)),
                ("reference.png", _png(reference)),
                ("txt", words.encode()),
                ("json", json.dumps(record).encode()),
            ):
                member = tarfile.TarInfo(f"{index:09d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    temporary.replace(path)


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=1)
    return content.getvalue()


def pictures_of(scenes: Scenes, size: int) -> Iterator[Image.Image]:
    """Drawn as they are asked for."""
    for part in scenes.chunks():
        yield from images_from_pixels(draw(part, size).pixels * 2 - 1)


def _write_chunk(
    folder: Path, scenes: Scenes, start: int, size: int, maps: bool
) -> list[dict[str, Json]]:
    drawn = draw(scenes, size)
    entries = []
    for index, image in enumerate(images_from_pixels(drawn.pixels * 2 - 1)):
        name = f"{start + index:04d}"
        truth = scenes.truth(index)
        image.save(folder / f"{name}.png")
        entry: dict[str, Json] = {
            "file": f"{name}.png",
            "caption": caption(scenes, index, FULL, random.Random(0)),
            "truth": truth,
        }
        if maps:
            maps_there = maps_of_scene(drawn, index, len(truth["solids"]))
            for kind, map_ in maps_there.items():
                map_.save(folder / f"{name}-{kind}.png")
            entry["maps"] = {kind: f"{name}-{kind}.png" for kind in maps_there}
        entries.append(entry)
    return entries


def maps_of_scene(drawn: Render, index: int, solids: int) -> dict[str, Image.Image]:
    """Edges and the mask of each solid as black and white, depth as 16-bit grey."""

    def white_where(here: Tensor) -> Image.Image:
        return Image.fromarray(here.cpu().numpy().astype(np.uint8) * 255)

    depth = (drawn.depth[index] * DEPTH_UNITS).round().clamp(max=2**16 - 1)
    masks = {
        f"mask-{slot + 1}": white_where(drawn.ids[index] == FIRST_SOLID + slot)
        for slot in range(solids)
    }
    return {
        "edges": white_where(drawn.edges[index]),
        "depth": Image.fromarray(depth.cpu().numpy().astype(np.uint16)),
        **masks,
    }
