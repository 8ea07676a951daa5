"""The demo in a browser: settings → pipeline → page → server. Also what a Space starts.

    python app.py --help
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ipadapter_demo.settings import settings_from_args

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported


def main(argv: Sequence[str] | None = None) -> None:
    settings = settings_from_args(argv)  # before the heavy imports: --help answers at once

    from ipadapter_demo.errors import CheckpointError, ModelError
    from ipadapter_demo.pipeline import load
    from ipadapter_demo.ui import build_ui, launch_options

    try:
        pipeline = load(settings.model, device=settings.device, dtype=settings.dtype)
    except (CheckpointError, ModelError) as error:
        sys.exit(f"app.py: {error}")
    build_ui(pipeline, settings).launch(**launch_options(settings))


if __name__ == "__main__":
    main()
