"""The command line of a training, for whatever launches it: accelerate, torchrun, or python."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable

from ipadapter_demo.console import print_whatever_it_is
from ipadapter_demo.errors import DemoError
from ipadapter_demo.training.card import Provenance
from ipadapter_demo.training.config_reading import Config, add_fields, config_from_arguments


def main(about: str | None, kind: type[Config], train: Callable[[Config], Provenance]) -> None:
    """Read a config, train, and print the provenance as a JSON line; 2 is the exit status for
    whatever the caller can put right."""
    print_whatever_it_is()
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_fields(parser, kind)
    first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(
        level=logging.INFO if first else logging.WARNING, format="%(asctime)s %(message)s"
    )
    logging.getLogger("accelerate").setLevel(logging.WARNING)
    try:
        provenance = train(config_from_arguments(kind, parser.parse_args()))
    except DemoError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if first:
        print(json.dumps(provenance))
