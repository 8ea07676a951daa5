"""The demo in a browser: settings → pipeline → page → server. Also what a Space starts.

python app.py --help
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ipadapter_demo.settings import load_options, settings_from_args, without_additions

if TYPE_CHECKING:
    from ipadapter_demo.models.sources import Report

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported


def main(argv: Sequence[str] | None = None) -> None:
    settings = settings_from_args(argv)  # before the heavy imports: --help answers at once

    from ipadapter_demo.errors import CheckpointError, ModelError
    from ipadapter_demo.models.listing import labels
    from ipadapter_demo.models.sources import announced
    from ipadapter_demo.pipeline import ImagePromptPipeline, prepare
    from ipadapter_demo.serving import ModelManager
    from ipadapter_demo.ui import build_ui, launch_options

    def prepared(model: str, report: Report) -> Callable[[], ImagePromptPipeline]:
        options = load_options(settings if model == settings.model else plain)
        return prepare(model, options, report)

    plain = without_additions(settings)
    try:
        pipeline = prepared(settings.model, announced(print))()
    except (CheckpointError, ModelError) as error:
        sys.exit(f"app.py: {error}")
    manager = ModelManager(pipeline, prepared, labels(settings.models_dir), settings.queue_size)
    build_ui(manager, settings).launch(**launch_options(settings))


if __name__ == "__main__":
    main()
