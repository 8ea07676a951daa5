"""The `models` command."""

from __future__ import annotations

import argparse
from pathlib import Path

from ipadapter_demo.cli.command import Arguments, Command, Load, print_line
from ipadapter_demo.cli.model import settings_of

TEXT = """\
List the catalogue: a JSON line for each model, with its licence, its size, and how many megabytes
are still to be fetched, which happens when it is first used.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models-dir", metavar="DIR", help="folder that mirrors the hub [$IPADAPTER_MODELS_DIR]"
    )


def run(arguments: Arguments, load: Load) -> None:
    from ipadapter_demo.models.catalog import TABLETOP
    from ipadapter_demo.models.listing import listing

    print_line(name=TABLETOP.name, note=TABLETOP.note, present=True, licence="Apache-2.0")
    models_dir = settings_of(arguments).models_dir
    for row in listing(None if models_dir is None else Path(models_dir)):
        print_line(**row)


COMMAND = Command("list the models there are", TEXT, add_options, run)
