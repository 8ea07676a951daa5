"""The options of `generate` for a picture that is changed, started from, or drawn larger."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ipadapter_demo.upscale import ENLARGES, Upscale


def add_picture_options(add: Callable[..., argparse.Action]) -> None:
    add("--inpaint", type=Path, metavar="I.png", help="a picture to replace a part of")
    add("--mask", type=Path, metavar="M.png", help="which part: the white one, as large as I.png")
    add(
        "--extend",
        type=int,
        nargs=4,
        metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
        help="draw I.png on beyond its edges, by so many pixels on each side; beside it --mask may "
        "be left out",
    )
    add("--feather", type=int, metavar="PIXELS", help="mask feather, inwards [2]")
    add(
        "--repaint-passes",
        type=int,
        metavar="N",
        help="repaint passes, 1 to 10, for a seam that does not show [the model's: tabletop 4]",
    )
    add(
        "--context",
        type=float,
        metavar="C",
        help="how much of I.png the model sees, from 0, only the mask enlarged, to 1, all "
        "[the model's: 1]",
    )
    add(
        "--background-weight",
        type=float,
        metavar="W",
        help="background image prompt: weight of I.png around the mask; references then keep to it "
        "[the model's: tabletop 1]",
    )
    add("--init", type=Path, metavar="I.png", help="a picture to start from instead of noise")
    add(
        "--strength",
        type=float,
        metavar="S",
        help="denoising strength: 1 ignores I.png [with --inpaint 1, with --init 0.6]",
    )
    add(
        "--upscale",
        type=float,
        metavar="FACTOR",
        help="draw in two passes: at the size, then from that picture enlarged, for one larger "
        "than the model was trained for without repeats; above 1 up to 4",
    )
    add(
        "--upscale-strength",
        type=float,
        metavar="S",
        help="denoising strength of the second pass, up to 1: more draws more anew "
        f"[{Upscale().strength:g}]",
    )
    add(
        "--enlarge",
        choices=ENLARGES,
        help="what becomes larger between the passes [picture]",
    )
