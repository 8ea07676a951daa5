"""The `train` command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipadapter_demo.cli.command import PROGRAM, Arguments, Command, Load, positive, print_line
from ipadapter_demo.errors import TrainingError
from ipadapter_demo.settings import resolved_device

if TYPE_CHECKING:
    from ipadapter_demo.training.card import Provenance
    from ipadapter_demo.training.config import TrainingConfig

# Those of training/tabletop/recipes.py, which would import torch; a test compares them.
PARTS = (
    "vae",
    "clip",
    "image-encoder",
    "text-encoder",
    "base-small",
    "controlnet-small",
    "t2i-palette-small",
    "base",
    "words",
    "solids",
    "image-adapter",
    "image-adapter-plus",
    "light",
    "controlnet",
    "t2i-palette",
    "t2i-canny",
    "t2i-inpaint",
    "finishes",
    "vae-decoder",
    "few-step",
    "few-step-own",
    "attribute-classifier",
)
# Folders that this part and those after it read; the last reads pictures alone.
READ_FROM = {"image-encoder": "tokenizer", "base-small": "vae", "controlnet-small": "unet"}
# Options that belong to one of the two: a recipe has a run, pictures and a base of its own.
OF_A_RECIPE = ("runs", "pictures")
OF_OWN_PICTURES = ("run", "held_out", "base", "image_encoder", "models_dir")


TEXT = """\
Train on your pictures, with --config or --data: `image-adapter`, `structure` (a ControlNet or a
T2I-Adapter) or `few-step` (a LoRA that draws in 1 to 8 steps); --help behind each lists all that a
config may say.

Or train one part of the tabletop model, going on where an interrupted run stopped. Each needs those
before it, except that nothing needs the last.
"""


ABOUT = {
    "image-adapter": "with --config or --data, on your pictures; else that of the tabletop model, "
    "which is replaced",
    "few-step": "with --config or --data, of any base on your pictures; else that of the tabletop "
    "model, which is replaced",
    "structure": "a ControlNet or a T2I-Adapter, on your pictures",
}


EXAMPLES = f"""\
examples:
  {PROGRAM} train image-adapter --config configs/sd15.yaml --data shards/*.tar
  {PROGRAM} train structure --config configs/sd15-canny.yaml --resume
  {PROGRAM} train image-adapter
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    from ipadapter_demo.training.config_reading import add_fields

    parts = parser.add_subparsers(
        dest="part", required=True, metavar="PART", help="what to train; PART --help says more"
    )
    configs = _configs()
    for part in (*PARTS, "structure"):
        about = ABOUT.get(part, "of the tabletop model")
        own = parts.add_parser(part, help=about, description=about)
        add = own.add_argument
        add("--threads", type=positive, metavar="N", help="of the CPU [torch's default]")
        if part != "structure":
            add(
                "--runs",
                type=Path,
                metavar="DIR",
                help="folder for checkpoints, previews and rendered pictures [runs]",
            )
            add("--pictures", type=positive, metavar="N", help="to render and train on [32768]")
        if part in configs:
            add_fields(own, configs[part])
        else:
            add("--out", type=Path, metavar="DIR", help="the model's folder [assets/tabletop]")
            add("--steps", type=positive, metavar="N", help="[the recipe's own]")
            add("--device", help="cpu, cuda, ... [cuda if there is one, else mps, else cpu]")


def run(arguments: Arguments, load: Load) -> None:
    import logging

    import torch

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("accelerate").setLevel(logging.WARNING)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    given = {name for name, value in vars(arguments).items() if value is not None}
    own = arguments.part == "structure" or not given.isdisjoint(("config", "data"))
    for name in OF_A_RECIPE if own else OF_OWN_PICTURES:
        if name in given:
            how = "goes with neither --data nor --config" if own else "needs --data or --config"
            raise TrainingError(f"--{name.replace('_', '-')} {how}")
    if own:
        print_line(part=arguments.part, **_train_on_pictures(arguments))
        return
    from ipadapter_demo.training.config import TrainingConfig
    from ipadapter_demo.training.config_reading import field_from
    from ipadapter_demo.training.tabletop import recipes

    steps = arguments.steps
    if steps is not None:
        steps = field_from(TrainingConfig, "steps", steps)
        if not (isinstance(steps, int) and steps >= 1):
            raise TrainingError(f"steps must be at least 1, got {steps}")
    out = Path(arguments.out or recipes.OUT)
    _check_folder(arguments.part, out)
    provenance = recipes.train(
        arguments.part,
        arguments.runs or Path("runs"),
        out,
        steps=steps,
        device=resolved_device(arguments.device or None),
        pictures=arguments.pictures or recipes.PICTURES,
        **_given_fields(arguments),
    )
    print_line(part=arguments.part, **provenance)


def _check_folder(part: str, out: Path) -> None:
    """Before pictures are rendered for half an hour."""
    if part == PARTS[-1]:
        return
    for first, folder in READ_FROM.items():
        if PARTS.index(first) <= PARTS.index(part) and not (out / folder).is_dir():
            own = "; on pictures of your own give --data or --config" if part in _configs() else ""
            raise TrainingError(
                f"out must be a folder with what comes before {part} in the tabletop model, "
                f"got {out}, which has no {folder}{own}"
            )


def _configs() -> dict[str, type[TrainingConfig]]:
    """The trainings on anybody's pictures, by name."""
    from ipadapter_demo.training import config

    return {
        "image-adapter": config.ImageAdapterConfig,
        "structure": config.StructureConfig,
        "few-step": config.FewStepConfig,
    }


def _given_fields(arguments: Arguments) -> dict[str, Any]:
    """The fields of a recipe's config that flags set, besides those of every recipe."""
    if arguments.part not in _configs():
        return {}
    from dataclasses import fields

    taken = ("steps", "out", "device", "data", "resume")
    return {
        f.name: value
        for f in fields(_configs()[arguments.part])
        if f.name not in taken and (value := getattr(arguments, f.name)) is not None
    }


def _train_on_pictures(arguments: Arguments) -> Provenance:
    from ipadapter_demo.training import few_step, image_adapter, structure
    from ipadapter_demo.training.config_reading import config_from_arguments

    trainings: dict[str, Any] = {
        "image-adapter": image_adapter.train_image_adapter,
        "structure": structure.train_structure,
        "few-step": few_step.train_few_step,
    }
    config = config_from_arguments(_configs()[arguments.part], arguments)
    return trainings[arguments.part](config)


COMMAND = Command("train on your pictures, or the tabletop model", TEXT, add_options, run, EXAMPLES)
