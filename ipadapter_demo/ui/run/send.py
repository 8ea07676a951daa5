"""From a result to the next thing: its picture into a field, its seed or all settings again."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from ipadapter_demo.errors import RequestError
from ipadapter_demo.room import record_at
from ipadapter_demo.ui.run.errors import shown_errors
from ipadapter_demo.ui.run.restore import restored_with, shown
from ipadapter_demo.ui.run.running import AT_ONCE, REFUSABLE
from ipadapter_demo.ui.run.tab import BuiltTab, Update
from ipadapter_demo.ui.run.updates import PREVIEW
from ipadapter_demo.ui.run.uploads import editor_value_from_image, path_of_upload

# Another tab is shown from its top.
TO_THE_TOP = "() => { scrollTo({ top: 0 }); return []; }"
# Where the page stays as it is, the status adds what was done.
DONE = """(status) => [status.replace(/ <span class="done">[^]*$/, "")
    + ' <span class="done">TEXT</span>']"""


def add_send_to(tabs: gr.Tabs, built: Mapping[str, BuiltTab], compared: gr.Gallery) -> None:
    """Make the buttons below the results of every tab work; `compared` are the pictures that are
    compared."""
    painting, control = built["inpaint"].inputs["painting"], built["structure"].inputs["control"]

    def inpaint(path: Path) -> Update:
        return {painting: editor_value_from_image(str(path)), tabs: gr.Tabs(selected="inpaint")}

    def as_control(path: Path) -> Update:
        return {control: str(path), tabs: gr.Tabs(selected="structure")}

    for one in built.values():
        reference, seed, random = (one.inputs[n] for n in ("reference", "seed", "random_seed"))
        buttons = one.results.send
        _into_compare(one, buttons["compare"], compared, tabs)
        done = "The picture is the reference now."
        _on_click(one, buttons["reference"], [reference], _referring(reference), done)
        _on_click(one, buttons["inpaint"], [painting, tabs], inpaint)
        _on_click(one, buttons["control"], [control, tabs], as_control)
        _load_settings(one, buttons["settings"])
        done = "The next runs have this seed, too: it stands in Advanced."
        _on_click(one, buttons["seed"], [seed, random], _seeding(seed, random), done)


def _referring(reference: gr.Component) -> Callable[[Path], Update]:
    return lambda path: {reference: str(path)}


def _seeding(seed: gr.Component, random: gr.Component) -> Callable[[Path], Update]:
    """The seed of the one picture: alone it is drawn again, among several it is the first. That of
    a run that was stopped stands in its field already."""

    def kept(path: Path) -> Update:
        return {random: False} | ({seed: record_at(path).seed} if _finished(path) else {})

    return kept


def _load_settings(one: BuiltTab, button: gr.Button) -> None:
    """It is said where another model than the result's would draw them."""
    results = one.results

    def send(gallery: object, number: object, model: object, said: object) -> Update:
        with shown_errors():
            path = chosen(gallery, number)
            if not _finished(path):
                raise RequestError(
                    "result holds no settings: the run was stopped before it was finished"
                )
            record = record_at(path)
            before = re.sub(r' <span class="done">.*$', "", str(said or ""), flags=re.DOTALL)
            done = f'{before} <span class="done">{restored_with(record, model)}</span>'
            return shown(one, record.request) | {results.status: done}

    button.click(
        send,
        inputs=[results.gallery, results.number, one.inputs["model"], results.status],
        outputs=[*one.inputs.values(), results.status],
        preprocess=False,
        **REFUSABLE,
    )


def _finished(path: Path) -> bool:
    """Whether it is a result, and no preview of a run that was stopped."""
    return path.stem != PREVIEW


def _into_compare(one: BuiltTab, button: gr.Button, compared: gr.Gallery, tabs: gr.Tabs) -> None:
    """Beside the pictures that somebody chose; those that the page shows at first make room."""
    at_first = paths_of(compared.value)

    def into(gallery: object, number: object, pictures: object) -> Update:
        with shown_errors():
            path, there = chosen(gallery, number), paths_of(pictures)
            kept = [] if there == at_first else there
            shown = list(map(str, [*kept, path]))
            return {compared: shown, tabs: gr.Tabs(selected="compare")}

    button.click(
        into,
        inputs=[one.results.gallery, one.results.number, compared],
        outputs=[compared, tabs],
        preprocess=False,
        **REFUSABLE,
    ).success(None, js=TO_THE_TOP, **AT_ONCE)


def _on_click(
    one: BuiltTab,
    button: gr.Button,
    outputs: list[Any],
    update: Callable[[Path], Update],
    done: str = "",
) -> None:
    """`done` is said beside the results; without, another tab is opened."""

    def send(gallery: object, number: object) -> Update:
        with shown_errors():
            return update(chosen(gallery, number))

    sent = button.click(
        send,
        inputs=[one.results.gallery, one.results.number],
        outputs=outputs,
        preprocess=False,
        **REFUSABLE,
    )
    if done:
        status = one.results.status
        js = DONE.replace("TEXT", done)
        sent.success(None, js=js, inputs=status, outputs=status, **AT_ONCE)
    else:
        sent.success(None, js=TO_THE_TOP, **AT_ONCE)


def paths_of(gallery: object) -> list[Path]:
    """The files of a gallery of uploads. Raises RequestError."""
    items = gallery if isinstance(gallery, list) else []
    uploads = [item.get("image") if isinstance(item, Mapping) else item for item in items]
    return [path_of_upload(upload, "pictures") for upload in uploads]


def chosen(gallery: object, number: object) -> Path:
    """The file of the result that was clicked last, else of the first. Raises RequestError."""
    results = gallery if isinstance(gallery, list) else []
    if not results:
        raise RequestError("result is missing: draw something first")
    index = number if isinstance(number, int) and 0 <= number < len(results) else 0
    image = results[index].get("image") if isinstance(results[index], Mapping) else None
    return path_of_upload(image, "result")
