"""The command line, a file for each command.

Results go to stdout as JSON, one line each; everything else goes to stderr. Nothing heavy is
imported before a command runs, so help answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import ipadapter_demo
from ipadapter_demo.cli import (
    catalog,
    claims,
    compare,
    embeds,
    evaluate,
    generate,
    render,
    serve,
    sheets,
    train,
)
from ipadapter_demo.cli.command import PROGRAM, Command, Load
from ipadapter_demo.cli.model import load_quietly
from ipadapter_demo.console import print_whatever_it_is
from ipadapter_demo.errors import DemoError

COMMANDS: dict[str, Command] = {
    "generate": generate.COMMAND,
    "embeds": embeds.COMMAND,
    "serve": serve.COMMAND,
    "compare": compare.COMMAND,
    "models": catalog.COMMAND,
    "render": render.COMMAND,
    "evaluate": evaluate.COMMAND,
    "sheets": sheets.COMMAND,
    "claims": claims.COMMAND,
    "train": train.COMMAND,
}


def command_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Generate images from a reference picture: IP-Adapter on the command line.",
    )
    parser.add_argument(
        "--version", action="version", version=f"ipadapter-demo {ipadapter_demo.__version__}"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add_options(
            commands.add_parser(
                name,
                help=command.summary,
                description=command.text,
                epilog=command.examples,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    return parser


def main(argv: Sequence[str] | None = None, load: Load | None = None) -> int:
    """Run a command (argv None: this process's) and return its exit status.

    2 stands for whatever the caller can put right: one line on stderr says what. `load` takes the
    place of `ipadapter_demo.load`.
    """
    print_whatever_it_is()
    arguments = command_parser().parse_args(argv)
    try:
        COMMANDS[arguments.command].run(arguments, load or load_quietly)
    except DemoError as error:
        return _failed(arguments.command, str(error))
    except OSError as error:
        path = error.filename or getattr(arguments, "out", None)
        said = error.strerror or str(error)
        return _failed(arguments.command, f"{path}: {said}" if path else said)
    except KeyboardInterrupt:
        return 130
    return 0


def _failed(command: str, message: str) -> int:
    print(f"{PROGRAM} {command}: {message}", file=sys.stderr)
    return 2
