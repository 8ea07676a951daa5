"""Further runs of a tab: each waits for the one at work, with the values of the moment at which it
was asked for. Stop ends the one at work and drops the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
from gradio.events import Dependency

from ipadapter_demo.errors import RequestError
from ipadapter_demo.ui.run.endpoint import endpoint
from ipadapter_demo.ui.run.errors import shown_errors
from ipadapter_demo.ui.run.tab import BuiltTab, Buttons, Update

MOST = 8  # waiting
# Characters of a run's values, which nothing has checked yet: prompts and the names of files, with
# 2,000 and a few hundred each.
MAX_SIZE = 32_000

# At the end of a run, but for one that was stopped.
NEXT = """() => {
    const [queue, next] = ["queue", "next"].map((n) => document.querySelector(`#run-TAB .${n}`));
    if (/\\d/.test(queue.textContent) && !window.stoppedTabs?.has("TAB")) next.click();
    return [];
}"""


def add_further_runs(
    built: BuiltTab,
    run: Callable[..., Iterator[Update]],
    at_once: dict[str, object],
    queue: dict[str, object],
) -> Dependency:
    """Make the tab's button Queue work. Returns the event in which a run that waited is drawn."""
    buttons = built.buttons
    assert buttons.queue is not None
    assert buttons.next is not None
    waiting, begun = gr.State([]), gr.State(None)

    def add(waiting_runs: list[dict[str, object]], **values: object) -> Update:
        with shown_errors():
            if len(waiting_runs) >= MOST:
                raise RequestError(
                    f"queue may hold {MOST} runs, and {MOST} are waiting: wait for one of them"
                )
            size = len(json.dumps(values))
            if size > MAX_SIZE:
                raise RequestError(
                    f"queue may hold {MAX_SIZE:,} characters of a run, got {size:,}: shorten the "
                    "prompt"
                )
        runs = [*waiting_runs, values]
        return {waiting: runs, buttons.queue: queue_button(runs)}

    def begin(runs: list[dict[str, object]]) -> Update:
        if not runs:
            return {}
        first, *others = runs
        label = {buttons.queue: queue_button(others, visible=True)}
        return buttons.busy() | label | {waiting: others, begun: first}

    def drawn(values: dict[str, Any] | None) -> Iterator[Update]:
        if values is not None:
            yield from run(**values)

    endpoint(
        buttons.queue.click,
        add,
        {"waiting_runs": waiting} | built.inputs,
        [waiting, buttons.queue],
        trigger_mode="multiple",
        **at_once,
    )
    outputs = [waiting, begun, *buttons.all]
    ready = buttons.next.click(begin, inputs=waiting, outputs=outputs, **at_once)
    buttons.stop.click(dropped(waiting, buttons), outputs=[waiting, buttons.queue], **at_once)
    return endpoint(
        ready.then,
        drawn,
        {"values": begun},
        built.outputs,
        show_progress="hidden",
        api_visibility="private",
        **queue,
    )


def dropped(waiting: gr.State, buttons: Buttons) -> Callable[[], Update]:
    return lambda: {waiting: [], buttons.queue: queue_button([])}


def queue_button(runs: list[dict[str, object]], **properties: Any) -> gr.Button:
    """It says how many wait, and takes no more than it holds."""
    label = f"Queue ({len(runs)})" if runs else "Queue"
    return gr.Button(label, interactive=len(runs) < MOST, **properties)
