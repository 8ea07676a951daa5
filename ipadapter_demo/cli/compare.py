"""The `compare` command and its options."""

from __future__ import annotations

import argparse
from pathlib import Path

from ipadapter_demo.cli.command import PROGRAM, Arguments, Command, Load
from ipadapter_demo.cli.model import manager_of
from ipadapter_demo.errors import RequestError
from ipadapter_demo.model_flags import add_model_options

TEXT = """\
Draw a comparison: rows, columns and pages of pictures that differ in what the spec names and in
nothing else. Writes them into a folder as they finish, then figures, numbers and bundle.zip.
A comparison that was stopped goes on where it was when the same command is given again.

--verify draws the cells of a bundle again and prints, for each, how far it is from the one in the
bundle, in grey levels: 0 on the same machine and versions, at most 1 in float32 on others.
"""


EXAMPLES = f"""\
a spec, in YAML or JSON; --schema prints all that it may hold:
  title: Three references and the strength of the image prompt
  request: {{prompt: on a green striped floor, steps: 20}}
  rows: {{reference: [red-sphere.png, blue-cone.png, checker-cube.png]}}
  columns: {{image_scale: 0:1:0.2}}
  pages: {{seed: [1, 2]}}
  beside: [reference]

examples:
  {PROGRAM} compare spec.yaml --out comparison
  {PROGRAM} compare spec.yaml --cost
  {PROGRAM} compare --verify comparison/bundle.zip
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "spec",
        type=Path,
        nargs="?",
        metavar="SPEC",
        help="a spec, .yaml or .json; the files that it names lie beside it",
    )
    add(
        "--out",
        type=Path,
        default=Path("comparison"),
        metavar="DIR",
        help="folder for all of it [comparison]",
    )
    add(
        "--clip",
        type=Path,
        metavar="FOLDER",
        help="a CLIP model in transformers' layout to score with [the model's own]",
    )
    add("--cost", action="store_true", help="only say what it would cost")
    add("--schema", action="store_true", help="only print the JSON schema of a spec")
    add(
        "--verify",
        type=Path,
        metavar="BUNDLE",
        help="a bundle to draw again, the zip or its unpacked folder",
    )
    add_model_options(parser.add_argument_group("model").add_argument)


def run(arguments: Arguments, load: Load) -> None:
    from ipadapter_demo.cli import comparison

    if arguments.schema:
        comparison.print_schema()
    elif arguments.verify is not None:
        bundle = comparison.bundle_of(arguments)
        comparison.verify(bundle, manager_of(arguments, load, **comparison.made_with(bundle)))
    else:
        clip = arguments.clip
        if clip is not None and not (clip / "config.json").is_file():
            raise RequestError(f"--clip {clip} holds no CLIP model: it has no config.json")
        spec = comparison.spec_of(arguments)
        manager = manager_of(arguments, load, model=spec.comparison.model)
        comparison.draw(arguments, spec, manager)


COMMAND = Command("draw a comparison", TEXT, add_options, run, EXAMPLES)
