"""The words that a model with a small world knows, to click; and those of a prompt that it does not
know, named while somebody types."""

from __future__ import annotations

import json
from html import escape

import gradio as gr

from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.pipeline.warnings import JOINING
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.model_input import ModelInput
from ipadapter_demo.ui.run.running import AT_ONCE

# `element` is gradio's. Text that comes from an example or a file sets off no `input`: see LOOK.
ON_LOAD = """
const joining = new Set(JOINING);
const prompt = () => element.closest(".tab").querySelector(".prompt textarea");
let composing = false;
// A word that is being written is none yet: it would be said letter by letter.
const written = (field) => {
    if (document.activeElement !== field) return field.value;
    const { value, selectionEnd: caret } = field;
    return value.slice(0, caret).replace(/\\p{L}[\\p{L}\\p{M}]*$/u, "")
        + value.slice(caret).replace(/^[\\p{L}\\p{M}]+/u, "");
};
const look = () => {
    const line = element.querySelector(".unknown");
    if (!line || composing) return;
    const chips = [...element.querySelectorAll("button")].map((one) => one.textContent);
    const known = new Set([...chips, ...line.dataset.synonyms.split(" ")]);
    const typed = written(prompt()).toLowerCase().match(/\\p{L}[\\p{L}\\p{M}]*|[☀-➿🀀-🫿]/gu) ?? [];
    const unknown = [...new Set(typed)].filter((word) => !known.has(word) && !joining.has(word));
    line.textContent = unknown.length
        ? `${line.dataset.model} does not know: ${unknown.slice(0, 12).join(", ")}` : "";
};
element.addEventListener("look", look);
for (const event of ["input", "compositionstart", "compositionend", "focusout"])
    element.closest(".tab").addEventListener(event, ({ target, type, isComposing }) => {
        if (target !== prompt()) return;
        composing = type === "compositionstart" || isComposing === true;
        look();
    });
element.addEventListener("click", ({ target }) => {
    if (!target.matches("button")) return;
    const field = prompt(), words = field.value.trim();
    field.value = `${words}${words ? " " : ""}${target.textContent}`;
    field.dispatchEvent(new Event("input", { bubbles: true }));
});
""".replace("JOINING", json.dumps(sorted(JOINING)))
LOOK = """() => {
    document.querySelectorAll(".words").forEach((one) => one.dispatchEvent(new Event("look")));
    return [];
}"""


def words_of_prompt(manager: ModelManager, model: ModelInput, prompt: gr.Component) -> None:
    """To stand below the prompt."""
    shown = gr.HTML(
        words_html(manager.info),
        elem_classes="words",
        js_on_load=ON_LOAD,
        apply_default_css=False,
        padding=False,
    )

    def words(name: str) -> str:
        return words_html(manager.info_beside(name))

    model.shown.change(words, inputs=model.shown, outputs=shown, **AT_ONCE)
    prompt.change(None, js=LOOK, **AT_ONCE)


def words_html(info: ModelInfo) -> str:
    """Nothing for a model that knows all words."""
    if not info.words:
        return ""
    chips = "".join(
        f'<button type="button" lang="en">{escape(word)}</button>' for word in info.words
    )
    synonyms = escape(" ".join(info.synonyms))
    return (
        f'<p class="unknown" role="status" data-model="{escape(info.name)}" '
        f'data-synonyms="{synonyms}"></p>{chips}'
    )
