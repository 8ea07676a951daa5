"""The `render` command."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ipadapter_demo.cli.command import Arguments, Command, Load, positive, print_line, seed_number
from ipadapter_demo.errors import RequestError

SETTINGS = "scenes.json"  # beside shards
MAX_SIDE = 512  # scenes are drawn 32 at a time, which takes 16 GB then

TEXT = """\
Draw scenes of the tabletop world: NNNN.png, and scene.json with the caption and every attribute of
each. Equal seeds give equal scenes.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--count", type=positive, default=16, metavar="N", help="how many scenes [16]")
    add("--seed", type=seed_number, default=0, metavar="N", help="which scenes [0]")
    add(
        "--size",
        type=positive,
        default=128,
        metavar="N",
        help=f"pixels a side, at most {MAX_SIDE} [128]",
    )
    add(
        "--maps",
        action="store_true",
        help="also NNNN-edges.png, NNNN-depth.png (16 bits, thousandths of a world unit from the "
        "camera) and NNNN-mask-1.png, -2.png: a solid each, from left to right",
    )
    add(
        "--finishes",
        action="store_true",
        help="solids of every finish: matte, glossy and metal; without it all are matte, as the "
        "built-in model knows them",
    )
    add(
        "--shards",
        action="store_true",
        help="webdataset shards to train on instead, NNNNN.tar: 1,024 pictures each, with captions "
        "as poor as those of the web",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="folder for all of it")


def run(arguments: Arguments, load: Load) -> None:
    if arguments.size > MAX_SIDE:
        raise RequestError(f"--size must be at most {MAX_SIDE}, got {arguments.size}")
    if arguments.shards and arguments.maps:
        raise RequestError("--maps are not written into --shards: leave one of them out")
    from ipadapter_demo.tabletop.files import pictures_of, write_scenes, write_shards
    from ipadapter_demo.tabletop.scene import sample_scenes, with_finishes

    scenes = sample_scenes(arguments.count, arguments.seed)
    if arguments.finishes:
        scenes = with_finishes(scenes, arguments.seed)
    if arguments.shards:
        _check_settings(arguments)
        drawn = pictures_of(scenes, arguments.size)
        for path in write_shards(arguments.out, scenes, drawn, arguments.seed):
            print_line(path=str(path))
        return
    entries = write_scenes(arguments.out, scenes, arguments.size, arguments.maps)
    path = arguments.out / "scene.json"
    path.write_text(json.dumps(entries, indent=1) + "\n")
    print_line(path=str(path), scenes=len(entries))


def _check_settings(arguments: Arguments) -> None:
    """Shards that are there stay, so that a command that was interrupted goes on: those of another
    one are no part of its scenes."""
    from ipadapter_demo.models.json_files import json_object

    wanted = {name: getattr(arguments, name) for name in ("count", "seed", "size", "finishes")}
    file = arguments.out / SETTINGS
    if any(arguments.out.glob("*.tar")):
        there = json_object(file) if file.exists() else {}
        if there != wanted:
            said = ", ".join(f"{name} {value}" for name, value in there.items()) or "unknown"
            raise RequestError(
                f"--out {arguments.out} holds shards of other settings ({said:.200}): choose "
                "another folder"
            )
    arguments.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(wanted) + "\n")


COMMAND = Command("draw scenes of the tabletop world, with their truth", TEXT, add_options, run)
