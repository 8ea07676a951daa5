"""The `sheets` command."""

from __future__ import annotations

import argparse
from pathlib import Path

from ipadapter_demo.cli.command import Arguments, Command, Load, print_line
from ipadapter_demo.cli.evaluate import check_tabletop
from ipadapter_demo.cli.model import loaded, settings_of
from ipadapter_demo.model_flags import add_model_options

TEXT = """\
Draw sheets of unselected held-out scenes with the tabletop model: the overview at the top of the
README, and one sheet for each thing the demo does.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        default=Path("assets/figures"),
        metavar="DIR",
        help="folder for the WebPs [assets/figures]",
    )
    add_model_options(parser.add_argument_group("model").add_argument)


def run(arguments: Arguments, load: Load) -> None:
    check_tabletop(settings_of(arguments), "sheets")

    from ipadapter_demo.evaluation.sheets import draw_sheets

    for path in draw_sheets(loaded(arguments, load), arguments.out):
        print_line(path=str(path))


COMMAND = Command("draw sheets of examples", TEXT, add_options, run)
