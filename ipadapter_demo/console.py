"""What a command prints, on whatever terminal."""

from __future__ import annotations

import sys


def print_whatever_it_is() -> None:
    """A character that the terminal does not have, as λ under Windows' code page 1252, becomes a
    question mark, and no error."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")
