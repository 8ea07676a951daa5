"""The right column of a tab: what was drawn, and what to do with it."""

from __future__ import annotations

import gradio as gr

from ipadapter_demo.ui.run.status import status_line
from ipadapter_demo.ui.run.tab import Results
from ipadapter_demo.ui.widgets.attention import attention_view
from ipadapter_demo.ui.widgets.opening import NOTHING_YET, Opening
from ipadapter_demo.ui.widgets.scrubber import scrubber

# Clicks the next example, which draws it. The first one is shown when the page opens with it.
TRY_ANOTHER = """() => {
    const row = document.getElementById("run-TAB"), tab = row.closest(".tab");
    const all = tab.querySelectorAll(".inputs .gallery-item, .inputs tr.tr-body");
    row.example = ((row.example ?? FIRST) + 1) % all.length;
    all[row.example]?.click();
    return [];
}"""


# What to do with the result that was clicked last, else with the first.
SEND = {
    "reference": "Use as reference",
    "inpaint": "Inpaint this",
    "control": "As control image",
    "compare": "Into Compare",
    "seed": "Keep this seed",
    "settings": "Load its settings",
}


def results_of(tab: str, *, comparison: bool = False, opening: Opening | None = None) -> Results:
    """`comparison` adds a slider between before and after. `opening` is shown until something else
    is drawn."""
    with gr.Row(elem_classes="said"):
        status = status_line(opening.sentence if opening else NOTHING_YET, scale=1)
        another = gr.Button(
            "Try another" if opening else "Try an example", size="sm", scale=0, min_width=130
        )
        surprise = gr.Button("Surprise me", size="sm", scale=0, min_width=120, visible=False)
    switch = gr.Button("Switch the model", size="sm", visible=False)
    scrub = scrubber()
    gallery = gr.Gallery(
        opening and [str(path) for path in opening.pictures],
        label="Results",
        show_label=False,
        format="png",
        columns=2,
        height="auto",
        object_fit="contain",
        interactive=False,
        buttons=["download", "download_all", "fullscreen"],
        elem_classes="results",
    )
    with gr.Row(elem_classes=["after", "send"]):
        send = {name: gr.Button(label, size="sm", min_width=110) for name, label in SEND.items()}
    number = gr.State(None)
    attention_maps = attention_view()
    slider = None
    if comparison:
        slider = gr.ImageSlider(
            label="Before and after",
            format="png",
            interactive=False,
            buttons=["fullscreen"],
            elem_classes="before-after",
        )
    with gr.Accordion("Reproduce (CLI / Python)", open=False, elem_classes="after"):
        gr.HTML(
            "These lines draw a result again from its PNG, which holds its pictures too. Click a "
            "result to choose another.",
            elem_classes="status",
        )
        lines = (
            gr.Code(language="shell", label="Command", interactive=False, wrap_lines=True, lines=2),
            gr.Code(language="python", label="Python", interactive=False),
        )
    another.click(
        None,
        js=TRY_ANOTHER.replace("TAB", tab).replace("FIRST", "0" if opening else "-1"),
        queue=False,
        api_visibility="private",
    )
    return Results(
        gallery, scrub, status, attention_maps, lines, slider, send, surprise, switch, number
    )
