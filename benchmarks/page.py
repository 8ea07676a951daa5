"""The page over a pipeline, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.ports import free_port
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui, launch_options
from ipadapter_demo.ui.run.offers import Scene


@contextmanager
def served(pipeline: ImagePromptPipeline, scene: Scene | None = None) -> Iterator[str]:
    """Its address."""
    settings = Settings(port=free_port())
    page = build_ui(ModelManager(pipeline), settings, scene)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **launch_options(settings))
    try:
        yield url
    finally:
        page.close()
