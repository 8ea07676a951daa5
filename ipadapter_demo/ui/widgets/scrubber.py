"""A sweep of λ to move along: each picture that is drawn is shown at once, without a word to the
server."""

from __future__ import annotations

import html
from collections.abc import Sequence

import gradio as gr

from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.ui.run.addresses import file_url
from ipadapter_demo.ui.widgets.access import picture_text

# A picture that somebody went to stays while others are added. `element` and the functions are
# gradio's. The thumbnails below are those of the gallery.
ON_LOAD = """
let chosen = null;
const range = () => element.querySelector("input");
const outcome = element.closest(".outcome");
const thumbs = () => [...outcome.querySelectorAll(".results .thumbnail-item")];
const show = (n) => {
    const all = [...element.querySelectorAll("img")];
    if (!all[n]) return;
    range().value = n;
    range().setAttribute("aria-valuetext", all[n].dataset.scale);
    element.querySelector("output").textContent = all[n].dataset.scale;
    all.forEach((one, k) => one.classList.toggle("shown", k === n));
    thumbs().forEach((one, k) => one.toggleAttribute("data-shown", k === n));
};
const go = (n) => show(chosen = n);
const choose = () => trigger("select", { index: chosen });
element.addEventListener("input", () => go(+range().value));
element.addEventListener("change", choose);
element.addEventListener("pointermove", ({ target, clientX, pointerType }) => {
    if (target !== range() || pointerType !== "mouse") return;
    const { left, width } = target.getBoundingClientRect(), most = +target.max;
    go(Math.min(most, Math.max(0, Math.round(most * (clientX - left - 8) / (width - 16)))));
});
element.addEventListener("pointerout", ({ target }) => {
    if (target === range() && chosen !== null) choose();
});
outcome.addEventListener("click", ({ target }) => {
    const n = thumbs().indexOf(target.closest(".thumbnail-item"));
    if (range() && n >= 0) go(n);
});
watch("value", () => {
    const count = element.querySelectorAll("img").length;
    if (count < 2) chosen = null;
    if (count) show(chosen ?? +range().value);
    if (count === 1) element.scrollIntoView({ behavior: "smooth", block: "nearest" });
});
"""


def scrubber() -> gr.HTML:
    """Empty until a sweep is drawn."""
    return gr.HTML(
        "", elem_classes="scrub", js_on_load=ON_LOAD, apply_default_css=False, padding=False
    )


def scrubber_html(paths: Sequence[str], requests: Sequence[GenerateRequest], at: int) -> str:
    """One picture for each of the first `requests`, that of number `at` shown first."""
    drawn = requests[: len(paths)]
    labels = [f"λ = {one.image_scale:g}" for one in drawn]
    pictures = "".join(
        f'<img src="{file_url(path)}" alt="{html.escape(picture_text(one, one.seed))}" '
        f'data-scale="{label}">'
        for path, one, label in zip(paths, drawn, labels, strict=True)
    )
    return (
        f'<div class="stage">{pictures}</div>'
        '<div class="move"><span>Image strength</span><input type="range" aria-label="λ to look at"'
        f' min="0" max="{len(paths) - 1}" step="1" value="{at}" aria-valuetext="{labels[at]}">'
        f"<output>{labels[at]}</output></div>"
    )
