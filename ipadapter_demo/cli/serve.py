"""The `serve` command: settings → pipeline → page → server."""

from __future__ import annotations

import argparse
import gc
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ipadapter_demo.cli.command import Arguments, Command, Load
from ipadapter_demo.cli.model import COMPILING, settings_of
from ipadapter_demo.errors import ServerError
from ipadapter_demo.settings import Settings, add_settings, load_options, without_additions
from ipadapter_demo.temporary import swept, temporary_folder

if TYPE_CHECKING:
    from gradio.blocks import Blocks

    from ipadapter_demo.models.sources import Report
    from ipadapter_demo.pipeline import ImagePromptPipeline

TEXT = """\
Open the page: pictures as prompts, in the browser.
"""
EXAMPLES = """\
Every option can be set as a variable too: --queue-size as IPADAPTER_QUEUE_SIZE.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_settings(parser.add_argument)


def run(arguments: Arguments, load: Load) -> None:
    serve(settings_of(arguments))


def serve(settings: Settings) -> None:
    """Load the model and serve the page until the program is stopped; also what `app.py` does.

    Raises CheckpointError, ModelError or ServerError.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
    check_address(settings.host, settings.port)
    with temporary_folder() as folder:
        page = _page(settings)

        from ipadapter_demo.ui import launch_options

        with swept(folder):
            page.launch(**launch_options(settings))


def check_address(host: str, port: int) -> None:
    """Raises ServerError where nobody can listen, before a model is loaded for it."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen()
    except OSError as error:
        said = (error.strerror or str(error)).lower()
        raise ServerError(
            f"{host}:{port} cannot be listened on: {said}: choose another --port"
        ) from error


def _page(settings: Settings) -> Blocks:
    with _rare_garbage_collection():
        from ipadapter_demo.models.listing import labels
        from ipadapter_demo.models.sources import announced
        from ipadapter_demo.pipeline import prepare
        from ipadapter_demo.pipeline.warm_up import warm_up
        from ipadapter_demo.serving import ModelManager
        from ipadapter_demo.ui import build_ui

        others = without_additions(settings)

        def prepared(model: str, report: Report) -> Callable[[], ImagePromptPipeline]:
            options = load_options(settings if model == settings.model else others)
            load = prepare(model, options, report)
            return (lambda: warmed_up(load())) if options.compile else load

        def warmed_up(pipeline: ImagePromptPipeline) -> ImagePromptPipeline:
            print(f"{pipeline.info.name}: {COMPILING}")
            print(f"{pipeline.info.name}: compiled in {warm_up(pipeline):.0f} s")
            return pipeline

        pipeline = prepared(settings.model, announced(print))()
        manager = ModelManager(pipeline, prepared, labels(settings.models_dir), settings.queue_size)
        return build_ui(manager, settings)


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
