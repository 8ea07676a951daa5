"""Live: while somebody moves λ, a weight or the prompt, the picture follows in few steps; when they
rest, the whole request is drawn as the button Generate draws it.

The browser clicks a hidden button at every change. Of the clicks during one frame only the last
counts, and it sends the values of that moment: the newest value wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import gradio as gr

from ipadapter_demo.compare.strip import first_image
from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline import Preview
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.endpoint import endpoint
from ipadapter_demo.ui.run.errors import shown_errors
from ipadapter_demo.ui.run.labels import with_labels
from ipadapter_demo.ui.run.running import AT_ONCE, QUEUE, request_from_values
from ipadapter_demo.ui.run.say import problem
from ipadapter_demo.ui.run.tab import BuiltTab, Update
from ipadapter_demo.ui.run.updates import AS_USUAL, LOOK_AGAIN, waited
from ipadapter_demo.ui.run.uploads import value_from_widget
from ipadapter_demo.ui.run.visitor import this_visitor

REST = 700  # milliseconds without a change, after which the whole request is drawn

# A run that was begun when somebody rested ends when they go on. But runs that wait were asked for:
# Live goes on after them.
CHANGED = r"""(live) => {
    if (!live) return [];
    const row = document.getElementById("run-TAB"), [generate, stop, frame, queue] =
        ["generate", "halt", "frame", "queue"].map((name) => row.querySelector("." + name));
    if (/\d/.test(queue?.textContent)) return [];
    clearTimeout(row.resting);
    row.moved = performance.now();
    if (!stop.disabled) {
        row.goesOn = true;  // Stop says nothing then
        stop.click();
    }
    frame.click();
    return [];
}"""
# Of a prompt gradio tells only of keys that write, and before their letters are there. The field
# itself tells of all: what is pasted, cut, deleted or clicked as a word too. A word that an input
# method composes counts at its end.
HEAR = """(live) => {
    const row = document.getElementById("run-TAB"), tab = row.closest(".tab");
    row.live = live;
    row.hear ??= ({ target, isComposing }) => {
        if (row.live && !isComposing && target.matches(".prompt textarea"))
            requestAnimationFrame(() => (CHANGED)(row.live));
    };
    for (const event of ["input", "compositionend"]) tab.addEventListener(event, row.hear);
    return [];
}"""
# Once after a change, and as long after a frame as that took: one that waits for it comes first.
SHOWN = """(live) => {
    const row = document.getElementById("run-TAB");
    const generate = row.querySelector(".generate");
    const rest = () => {
        if (generate.disabled) return void (row.resting = setTimeout(rest, 100));
        row.moved = null;
        generate.click();
    };
    clearTimeout(row.resting);
    if (!live) row.moved = null;
    if (row.moved)
        row.resting = setTimeout(rest, REST + performance.now() - row.moved);
    return [];
}""".replace("REST", str(REST))


def add_live(manager: ModelManager, built: BuiltTab) -> None:
    """Make the tab's switch work, if it has one."""
    frame, shown = built.buttons.frame, built.results
    if frame is None:
        return
    name, live = built.tab.translate.__name__, built.inputs["live"]
    hear = HEAR.replace("CHANGED", CHANGED)
    hear, changed, then = (js.replace("TAB", name) for js in (hear, CHANGED, SHOWN))
    live.change(None, js=hear, inputs=live, **AT_ONCE)  # type: ignore[attr-defined]
    gr.on(
        [widget.input for key, widget in built.inputs.items() if followed(key)],
        None,
        js=changed,
        inputs=live,
        **AT_ONCE,
    )
    drawn = endpoint(
        frame.click,
        _handler(manager, built),
        built.inputs,
        [shown.gallery, shown.status, shown.scrubber],
        show_progress="hidden",
        trigger_mode="always_last",
        api_visibility="private",
        **QUEUE,
    )
    drawn.success(None, js=then, inputs=live, **AT_ONCE)


def followed(name: str) -> bool:
    """λ and the weights of pictures; the prompt is heard by `HEAR`."""
    return name == "image_scale" or name.startswith("weight")


def _handler(manager: ModelManager, built: BuiltTab) -> Callable[..., Iterator[Update]]:
    shown = built.results

    def drawn(values: dict[str, object]) -> Iterator[Update]:
        model = value_from_widget(built.inputs["model"], values.pop("model"), "model")
        for name in ("attention", "shape", "live"):
            values.pop(name, None)
        request = request_from_values(built, values | {"random_seed": False})
        info = manager.info_of(model)
        if info is None or info.live is None:
            raise RequestError(f"live needs a LoRA for few steps, and {model} has none")
        frame = info.in_few_steps(first_image(request))
        limit = manager.limits.time_limit
        with manager.turn(model, this_visitor(), manager.cost(model, [frame])) as turn:
            for _ in waited(turn):
                yield {}  # nothing to show, but who has left is missed
            pipeline, done = manager.at_turn(turn), 0
            with closing(
                pipeline.stream(frame, look_again=LOOK_AGAIN, most_seconds=limit)
            ) as events:
                for event in events:
                    if isinstance(event, Preview):
                        turn.share, turn.seconds = event.step / event.steps, event.seconds
                        if event.step == done:  # said again: not at every step, which would
                            yield {}  # keep the browser busy beside the model
                        done = event.step
                    else:
                        yield {
                            shown.gallery: gr.Gallery(list(event.images), **AS_USUAL),
                            shown.scrubber: "",
                            shown.status: f"Live: {event.request.steps} steps in "
                            f"{event.seconds:.2f} s, seed {event.seeds[0]}.",
                        }

    def live_frame(**values: object) -> Iterator[Update]:
        """An error is said in the status alone: the next frame may come at once."""
        try:
            with shown_errors():
                yield from with_labels(drawn(values), built.inputs)
        except gr.Error as error:
            yield {shown.status: problem(error)}

    return live_frame
