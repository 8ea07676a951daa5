"""Words for the page. It reads messages, and all that stands in a gr.HTML, as HTML.

Whatever comes from a file, a visitor or an error passes here first, and makes no element.
"""

from __future__ import annotations

import html

import gradio as gr

MAX_LENGTH = 1000  # characters of a message
PROBLEM = '<span class="problem">'  # what a status of an error begins with, for scripts too


def escaped(text: object) -> str:
    """For the inside of an element, never for an attribute: shown letter by letter, and shortened
    where it is long. Programs read messages too, so quotation marks stay."""
    said = str(text)
    short = said if len(said) <= MAX_LENGTH else said[: MAX_LENGTH - 1] + "…"
    return html.escape(short, quote=False)


def inform(text: str) -> None:
    gr.Info(escaped(text))


def warn(text: str) -> None:
    gr.Warning(escaped(text))


def failure(text: object) -> gr.Error:
    """An error to raise."""
    return gr.Error(escaped(text), print_exception=False)


def problem(error: gr.Error) -> str:
    """An error's sentence for a status, escaped already."""
    return f"{PROBLEM}{error.message}</span>"
