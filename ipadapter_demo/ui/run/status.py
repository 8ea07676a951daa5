"""One line that says how far something is, and a live region: screen readers say it too."""

from __future__ import annotations

import gradio as gr

# Stop has no room to say what it does, so its title does. The button is made after this line: the
# title comes as soon as somebody comes near.
ON_LOAD = """
element.setAttribute("role", "status");
const column = element.closest(".outcome");
const entitle = () => {
    const stop = column.querySelector(".halt");
    if (stop) stop.title = "Ends the run after the present step, or leaves the line. "
        + "The pictures that are shown stay.";
};
for (const event of ["pointerover", "focusin"]) column?.addEventListener(event, entitle);
"""


def status_line(value: str = "", **layout: object) -> gr.HTML:
    return gr.HTML(value, label="Status", elem_classes="status", js_on_load=ON_LOAD, **layout)
