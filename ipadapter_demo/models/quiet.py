"""Libraries that say what this program says better."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def errors_only(logging: ModuleType) -> Iterator[None]:
    """Without the warnings of diffusers or transformers, by the `utils.logging` of either."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
