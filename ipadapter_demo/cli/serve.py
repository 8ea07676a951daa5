"""The `serve` command: settings → pipeline → page → server."""

from __future__ import annotations

import argparse
import gc
import inspect
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ipadapter_demo.cli.command import Arguments, Command, Load
from ipadapter_demo.cli.model import COMPILING, settings_of
from ipadapter_demo.errors import ModelError, ServerError
from ipadapter_demo.settings import (
    Settings,
    add_settings,
    offered,
)
from ipadapter_demo.temporary import swept, temporary_folder

if TYPE_CHECKING:
    from gradio.blocks import Blocks
    from PIL import Image

    from ipadapter_demo.models.sources import Report
    from ipadapter_demo.pipeline import ImagePromptPipeline
    from ipadapter_demo.serving.manager import Prepare

TEXT = """\
Open the page: pictures as prompts, in the browser.
"""
EXAMPLES = """\
Every option can be set as a variable too: --queue-size as IPADAPTER_QUEUE_SIZE.
"""

# How long a thread of GNU's OpenMP keeps its core while it waits for the others, in turns of a
# loop. Its own 300,000 make a call of the model four times as slow where a browser wants a core as
# well, and these 6 % slower where nothing else runs: docs/speed.md.
SPINS = "2000"
# Addresses of proxies that are believed who a visitor is, as uvicorn reads them.
PRIVATE = "127.0.0.1,::1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_settings(parser.add_argument)


def run(arguments: Arguments, load: Load) -> None:
    serve(settings_of(arguments))


def serve(settings: Settings) -> None:
    """Load the model and serve the page until the program is stopped; also what `app.py` does.

    Raises CheckpointError, ModelError or ServerError.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
    share_cores()
    if os.environ.get("SPACE_ID"):  # where only the Space's own proxy comes in, and names visitors
        os.environ.setdefault("FORWARDED_ALLOW_IPS", PRIVATE)
    check_address(settings.host, settings.port)
    zero_gpu = _on_zero_gpu(settings)
    with temporary_folder() as folder:
        page = _page(settings, zero_gpu)

        from ipadapter_demo.ui import launch

        with swept(folder):
            launch(page, settings)
            page.block_thread()


def share_cores() -> None:
    """Have torch's threads wait for each other as `SPINS` says, unless the operator chose how.
    Before torch is imported, which reads it."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


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
    except UnicodeError as error:
        raise ServerError(f"{host}:{port} cannot be listened on: no name of a host") from error
    except OSError as error:
        said = (error.strerror or str(error)).lower()
        raise ServerError(
            f"{host}:{port} cannot be listened on: {said}: choose another --port"
        ) from error


def _page(settings: Settings, zero_gpu: bool) -> Blocks:
    with _rare_garbage_collection():
        with without_stub_files():
            import gradio  # noqa: F401
        from ipadapter_demo.models.listing import offers
        from ipadapter_demo.models.sources import announced
        from ipadapter_demo.serving import Limits, ModelManager
        from ipadapter_demo.serving.logs import log_requests
        from ipadapter_demo.ui import build_ui

        if settings.log_json or settings.metrics_port is not None:
            log_requests(settings.log_json)
        names = offers(settings.models_dir, offered(settings), settings.visitor_downloads)
        manager: ModelManager
        if settings.ray:
            from ipadapter_demo.serving.ray import replica_manager

            manager = replica_manager(settings, names)
        else:
            load = prepared_by(settings, zero_gpu)
            pipeline = load(settings.model, announced(print))()
            limits = Limits.of(settings)
            manager = ModelManager(pipeline, load, names, settings.queue_size, limits)
        if settings.metrics_port is not None:
            from ipadapter_demo.serving.metrics import serve_metrics

            serve_metrics(manager, settings.host, settings.metrics_port)
        return build_ui(manager, settings, scene_of_seed)


def scene_of_seed(seed: int) -> Image.Image:
    """A picture of the world that the built-in model was trained on."""
    from ipadapter_demo.imaging import images_from_pixels
    from ipadapter_demo.tabletop.render import render
    from ipadapter_demo.tabletop.scene import sample_scenes

    [picture] = images_from_pixels(2 * render(sample_scenes(1, seed)).pixels - 1)
    return picture


def _on_zero_gpu(settings: Settings) -> bool:
    """True on a Space that gets a GPU for each call; then all is ready for it."""
    if os.environ.get("SPACES_ZERO_GPU", "").lower() not in ("1", "t", "true"):
        return False
    if settings.compile:
        raise ModelError("compile is not possible on ZeroGPU: leave it out")
    import spaces  # noqa: F401 - before torch, whose CUDA it stands for

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive a fork
    return True


def prepared_by(settings: Settings, zero_gpu: bool = False) -> Prepare:
    """Finds models for a page, and fetches what is missing: of the operator's own model in any
    case, of others only where visitors may have that done."""
    from ipadapter_demo.pipeline import prepare
    from ipadapter_demo.pipeline.warm_up import warm_up
    from ipadapter_demo.serving.offered import options_of

    def prepared(model: str, report: Report) -> Callable[[], ImagePromptPipeline]:
        options = options_of(settings, model)
        load = prepare(model, options, report)
        if zero_gpu:
            from ipadapter_demo.serving.zero_gpu import ZeroGPUPipeline

            return lambda: ZeroGPUPipeline(load())
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


@contextmanager
def without_stub_files() -> Iterator[None]:
    """At every import gradio compares each of its components with a file of types beside it, for
    editors: two fifths of the import's time. It leaves out components without a source file."""
    file_of: Callable[..., str] = inspect.getfile

    def no_file_for_stubs(thing: object) -> str:
        if sys._getframe(1).f_globals.get("__name__") == "gradio.component_meta":
            raise OSError("a page needs no files of types")
        return file_of(thing)

    inspect.getfile = no_file_for_stubs  # type: ignore[assignment]
    try:
        yield
    finally:
        inspect.getfile = file_of


COMMAND = Command("open the page in a browser", TEXT, add_options, run, EXAMPLES)
