"""What gradio keeps of each visitor, in a few kilobytes.

Of each session that a program names it would write down the configuration of every widget, a
megabyte, and the last value that was sent for it, for 10,000 sessions. Only its links to a page as
somebody left it need that, and those are shut (guard/routes.py).
"""

from __future__ import annotations

from collections import ChainMap
from typing import Any

import gradio as gr
from gradio.blocks import Block, BlocksConfig
from gradio.state_holder import SessionState, StateHolder


class Session(SessionState):
    """The states of a visitor, and the widgets that are another for him than for all."""

    def __init__(self, page: gr.Blocks) -> None:
        shared, own = page.default_config, BlocksConfig(page)
        own.blocks = ChainMap({}, shared.blocks)  # type: ignore[assignment]
        own.fns = ChainMap({}, shared.fns)  # type: ignore[assignment]
        own.fn_id, own.renderables = shared.fn_id, list(shared.renderables)
        self.blocks_config = own
        self.config_values: dict[int, Any] = _Unwritten()
        self.state_data: dict[int, Any] = {}
        self._state_ttl: dict[int, Any] = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = 3600

    def __setitem__(self, key: int, value: object) -> None:
        """An update of a widget comes as a new widget: one with the same choices, limits and looks
        as all have, half a megabyte for a tab, is not kept."""
        own, shared = self.blocks_config.blocks.maps  # type: ignore[attr-defined]
        if isinstance(value, Block) and key in shared and _made_of(value) == _made_of(shared[key]):
            own.pop(key, None)
        else:
            super().__setitem__(key, value)

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: object) -> None:
        pass


class Sessions(StateHolder):
    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = Session(self.blocks)
        return super().__getitem__(session_id)


def _made_of(widget: Block) -> dict[str, Any]:
    """What it was made with, but for its value."""
    return {k: v for k, v in widget.constructor_args.items() if k not in ("value", "render")}


class _Unwritten(dict[int, Any]):
    def __setitem__(self, key: int, value: object) -> None:
        pass


def keep_little(page: gr.Blocks) -> None:
    """Of a page that is served."""
    sessions = Sessions()
    sessions.set_blocks(page)
    page.app.state_holder = sessions
