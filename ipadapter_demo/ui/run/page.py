"""The page itself."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ipadapter_demo.ui.run.errors import shown_errors


class Page(gr.Blocks):
    """Whatever goes wrong in one of its events, gradio's own part included, ends in a sentence: a
    value that no widget of it would send, a picture for which the disk has no room."""

    async def process_api(self, *args: Any, **options: Any) -> dict[str, Any]:
        with shown_errors():
            return await super().process_api(*args, **options)
