"""Errors as a visitor sees them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import gradio as gr

from ipadapter_demo.errors import DemoError
from ipadapter_demo.ui.run.say import failure, problem

T = TypeVar("T")

log = logging.getLogger(__name__)


@contextmanager
def shown_errors() -> Iterator[None]:
    """Errors that the user can act on are shown as they are; others go to the log."""
    try:
        yield
    except DemoError as error:
        raise failure(error) from error
    except gr.Error as error:
        error.print_exception = False
        raise
    except OSError as error:
        log.error("a file cannot be written or read: %s", error)
        said = error.strerror or type(error).__name__
        raise failure(f"The server cannot keep its files: {said}. Try again later.") from error
    except Exception as error:
        log.exception("a request failed")
        raise failure(
            "Something went wrong on the server; its log says what. Nothing you entered is lost."
        ) from error


def with_errors_said(updates: Iterator[T], status: Callable[[str], T]) -> Iterator[T]:
    """The same updates; an error's sentence is the last of them, as the status, before the error
    itself."""
    try:
        with shown_errors():
            yield from updates
    except gr.Error as error:
        yield status(problem(error))
        raise
