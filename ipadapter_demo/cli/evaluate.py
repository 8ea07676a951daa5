"""The `evaluate` command."""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

from ipadapter_demo.cli.command import (
    PROGRAM,
    Arguments,
    Command,
    Load,
    positive,
    print_line,
    progress,
    seed_number,
)
from ipadapter_demo.cli.model import loaded, precision_of, settings_of
from ipadapter_demo.errors import RequestError
from ipadapter_demo.files import write_file
from ipadapter_demo.model_flags import add_model_options
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.request import SAMPLERS
from ipadapter_demo.settings import Settings, load_options

SCENES, OF_SCENES = 200, ("scenes", "keep")
PROTOCOL = ("samples", "steps", "guidance", "sampler")  # fields with the paper's values
COCO = ("images", "captions", "clip", "limit", *PROTOCOL, "gpus")
TEXT = """\
Measure a model.

`evaluate` by itself takes the tabletop model and held-out scenes: how often what the text names,
what a reference carries and what a map fixes comes out right. Takes minutes.

`evaluate coco` takes any model and the paper's protocol: CLIP-I and CLIP-T of four samples for
every picture of a COCO captions file, shared among workers on this machine, or on the Ray cluster
that RAY_ADDRESS names. Stopped, it goes on where it was.
"""


EXAMPLES = f"""\
examples:
  {PROGRAM} evaluate --out report.json --workers 2
  {PROGRAM} evaluate coco --model sd15 --images val2017 --captions captions_val2017.json \\
    --clip clip-vit-large-patch14 --out coco --workers 8 --gpus 1
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "protocol",
        nargs="?",
        choices=("tabletop", "coco"),
        default="tabletop",
        metavar="tabletop|coco",
        help="which of the two [tabletop]",
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="PATH",
        help="the report.json to write; for coco a folder for it and for what is finished",
    )
    add(
        "--seed",
        type=seed_number,
        metavar="N",
        help="which scenes, of which recipes learn from none from "
        "900001 on [900001]; for coco of the first sample [0]",
    )
    add(
        "--workers",
        type=positive,
        default=1,
        metavar="N",
        help="processes that draw, with one thread each if there are several [1]",
    )
    add("--scenes", type=positive, metavar="N", help=f"more are surer [{SCENES}]")
    add(
        "--keep",
        type=Path,
        metavar="DIR",
        help="a folder for every picture that is drawn: those "
        "that are there are not drawn again, so a stopped evaluation goes on",
    )
    add = parser.add_argument_group("coco").add_argument
    add("--images", type=Path, metavar="DIR", help="folder of the pictures")
    add("--captions", type=Path, metavar="FILE", help="their captions, in COCO's JSON")
    add(
        "--clip",
        type=Path,
        metavar="FOLDER",
        help="a CLIP model in transformers' layout; the paper's is ViT-L/14",
    )
    add("--limit", type=positive, metavar="N", help="the first pictures [5000]")
    add("--samples", type=positive, metavar="N", help="of each picture [4]")
    add("--steps", type=positive, metavar="N", help="of the sampler [50]")
    add("--guidance", type=float, metavar="W", help="[7.5]")
    add("--sampler", choices=SAMPLERS, help="[ddim]")
    add("--gpus", type=float, metavar="X", help="a worker's share of them [0]")
    add_model_options(parser.add_argument_group("model").add_argument)


def run(arguments: Arguments, load: Load) -> None:
    coco = arguments.protocol == "coco"
    for name in OF_SCENES if coco else COCO:
        if getattr(arguments, name) is not None:
            raise RequestError(f"--{name} goes with evaluate{'' if coco else ' coco'} alone")
    if coco:
        _evaluate_coco(arguments)
        return
    settings = settings_of(arguments)
    check_tabletop(settings, "evaluate")
    if settings.vae is not None:  # the figures of the VAE alone are those of the one shipped
        raise RequestError(f"vae must be tabletop's own for evaluate, got {settings.vae!r}")
    if arguments.out.is_dir():
        raise RequestError(f"out must be the report.json to write, got the folder {arguments.out}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    pipeline = loaded(arguments, load)

    from ipadapter_demo.evaluation.drawing import drawn_by, drawn_by_workers, kept_in
    from ipadapter_demo.evaluation.report import evaluate as report_on
    from ipadapter_demo.tabletop.scene import HELD_OUT_SEED

    options = replace(load_options(settings), **precision_of(pipeline))
    several = arguments.workers > 1
    seed = HELD_OUT_SEED if arguments.seed is None else arguments.seed
    with (
        drawn_by_workers(arguments.workers, model=pipeline.info.name, options=options)
        if several
        else nullcontext(drawn_by(pipeline))
    ) as draw:
        if arguments.keep is not None:
            draw = kept_in(arguments.keep, draw, pipeline.provenance_of)
        report = report_on(pipeline, arguments.scenes or SCENES, seed, draw=draw, progress=progress)
    write_file(arguments.out, (json.dumps(report, indent=1) + "\n").encode())
    print_line(path=str(arguments.out))


def check_tabletop(settings: Settings, command: str) -> None:
    """Raises RequestError for another model: scenes and classifier are of tabletop's world."""
    if settings.model != TABLETOP.name:
        raise RequestError(
            f"model must be {TABLETOP.name} for {command}, got {settings.model!r:.80}"
        )


def _evaluate_coco(arguments: Arguments) -> None:
    from ipadapter_demo.evaluation.coco import Protocol, evaluate_coco, items_of

    for name in ("images", "captions", "clip"):
        if getattr(arguments, name) is None:
            raise RequestError(f"evaluate coco needs --{name}")
    settings = settings_of(arguments)
    given = {n: v for n in (*PROTOCOL, "seed") if (v := getattr(arguments, n)) is not None}
    items = items_of(arguments.images, arguments.captions, arguments.limit or 5000)
    report = evaluate_coco(
        items,
        {"model": settings.model, **asdict(load_options(settings))},
        arguments.clip,
        Protocol(**given),
        arguments.out,
        arguments.workers,
        arguments.gpus or 0.0,
        progress,
    )
    print_line(
        path=str(arguments.out / "report.json"), clip_i=report["clip_i"], clip_t=report["clip_t"]
    )


COMMAND = Command("measure a model", TEXT, add_options, run, EXAMPLES)
