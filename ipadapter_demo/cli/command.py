"""A command, and what all of them print."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ipadapter_demo.request import MAX_SEED

if TYPE_CHECKING:
    from ipadapter_demo.pipeline import ImagePromptPipeline

Arguments = argparse.Namespace
Load = Callable[..., "ImagePromptPipeline"]  # as `ipadapter_demo.load`


def _started_as(script: str) -> str:
    """The program as the person typed it: an installed script, or the package."""
    return "ipadapter-demo" if Path(script).stem == "ipadapter-demo" else "python -m ipadapter_demo"


PROGRAM = _started_as(sys.argv[0])


class Command(NamedTuple):
    """An option that is not given is None: its default is known only with the model, or with the
    PNG that a request comes from. Nothing heavy is imported before `run` is called."""

    summary: str
    text: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Arguments, Load], None]
    examples: str = ""


def positive(text: str) -> int:
    """The type of an option that counts."""
    if not re.fullmatch(r"\d{1,9}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def seed_number(text: str) -> int:
    """The type of an option that names scenes or noise."""
    if not re.fullmatch(r"\d{1,10}", text) or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from 0 to {MAX_SEED}, got {text!r}"
        )
    return int(text)


def print_line(**fields: object) -> None:
    """A result."""
    print(json.dumps(fields), flush=True)


def progress(text: str) -> None:
    """Everything else."""
    print(text, file=sys.stderr, flush=True)
