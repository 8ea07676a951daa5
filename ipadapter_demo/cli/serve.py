"""The `serve` command: settings → pipeline → page → server."""

from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from ipadapter_demo.cli.command import Arguments, Command, Load
from ipadapter_demo.cli.model import COMPILING, settings_of
from ipadapter_demo.settings import (
    Settings,
    add_settings,
    load_options,
    offered,
    without_additions,
)

if TYPE_CHECKING:
    from ipadapter_demo.models.sources import Report
    from ipadapter_demo.pipeline import ImagePromptPipeline
    from ipadapter_demo.serving.manager import Prepare

TEXT = """\
Open the page: pictures as prompts, in the browser.
"""
EXAMPLES = """\
Every option can be set as a variable too: --queue-size as IPADAPTER_QUEUE_SIZE.
"""

# Addresses of proxies that are believed who a visitor is, as uvicorn reads them.
PRIVATE = "127.0.0.1,::1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_settings(parser.add_argument)


def run(arguments: Arguments, load: Load) -> None:
    serve(settings_of(arguments))


def serve(settings: Settings) -> None:
    """Load the model and serve the page until the program is stopped; also what `app.py` does.

    Raises CheckpointError or ModelError.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
    if os.environ.get("SPACE_ID"):  # where only the Space's own proxy comes in, and names visitors
        os.environ.setdefault("FORWARDED_ALLOW_IPS", PRIVATE)

    with _rare_garbage_collection():
        from ipadapter_demo.models.listing import labels
        from ipadapter_demo.models.sources import announced
        from ipadapter_demo.ui import build_ui, launch_options, manager_of

        names = labels(settings.models_dir, offered(settings), settings.visitor_downloads)
        load = prepared_by(settings)
        manager = manager_of(load(settings.model, announced(print))(), settings, load, names)
        page = build_ui(manager, settings)
    page.launch(**launch_options(settings))


def prepared_by(settings: Settings) -> Prepare:
    """Finds models for a page, and fetches what is missing: of the operator's own model in any
    case, of others only where visitors may have that done."""
    from ipadapter_demo.models.at_hand import check_at_hand
    from ipadapter_demo.models.published import PUBLISHED
    from ipadapter_demo.pipeline import prepare
    from ipadapter_demo.pipeline.warm_up import warm_up

    others, downloads = without_additions(settings), settings.visitor_downloads

    def prepared(model: str, report: Report) -> Callable[[], ImagePromptPipeline]:
        own = model == settings.model
        options = replace(load_options(settings if own else others), fetch_later=downloads)
        if model in PUBLISHED and not (own or downloads):
            check_at_hand(model, PUBLISHED[model].needed, options.models_dir)
        load = prepare(model, options, report)
        return (lambda: warmed_up(load())) if options.compile else load

    def warmed_up(pipeline: ImagePromptPipeline) -> ImagePromptPipeline:
        print(f"{pipeline.info.name}: {COMPILING}")
        print(f"{pipeline.info.name}: compiled in {warm_up(pipeline):.0f} s")
        return pipeline

    return prepared


@contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """A start makes little garbage, and looking for it takes a sixth of the time of the imports."""
    usual = gc.get_threshold()
    gc.set_threshold(200_000, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


COMMAND = Command("open the page in a browser", TEXT, add_options, run, EXAMPLES)
