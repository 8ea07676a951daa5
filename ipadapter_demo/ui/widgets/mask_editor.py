"""The editor in which a mask is painted, its keys, and what is done to the mask afterwards."""

from __future__ import annotations

import gradio as gr

from ipadapter_demo.ui.run.tab import Widgets
from ipadapter_demo.ui.run.uploads import MAX_GROW

# What is below shows through the paint. More than half is opaque, so that it counts as mask.
OPACITY = 0.6
HINT = (
    "Keys: <kbd>[</kbd> <kbd>]</kbd> brush size, <kbd>Ctrl</kbd> <kbd>Z</kbd> undo, "
    "<kbd>Ctrl</kbd> <kbd>Shift</kbd> <kbd>Z</kbd> redo, <kbd>+</kbd> <kbd>-</kbd> zoom. The "
    "editor has buttons for all of them."
)

# Keys of the editor of the tab that is shown, wherever nobody types. The brush size has its slider
# in the editor behind a button, which is pressed for it.
KEYS = r"""() => {
    const shown = () =>
        [...document.querySelectorAll(".mask-editor")].find((one) => one.offsetParent !== null);
    const texts = "input:not([type=range], [type=file], [type=checkbox])";
    const typing = (target) =>
        target.closest?.(`textarea, select, [contenteditable=true], ${texts}`);
    const press = (editor, label) => {
        const labels = [label, window.translated(label)].map((one) => `[aria-label="${one}"]`);
        const button = editor.querySelector(`button:is(${labels}):not([disabled])`);
        button?.click();
        return Boolean(button);
    };
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    let resizing = Promise.resolve();
    const resize = async (editor, factor) => {
        const slider = () => editor.querySelector("input[type=range]");
        const open = slider() !== null;
        const until = performance.now() + 3000;
        let pressed = open;
        while (slider() === null && performance.now() < until) {
            pressed ||= press(editor, "Brush Size");
            await frame();
        }
        const range = slider();
        if (range === null) return;
        const now = Number(range.value);
        const next = Math.round(now * factor);
        range.value = next === now ? now + Math.sign(factor - 1) : next;
        range.dispatchEvent(new Event("input", { bubbles: true }));
        editor.dataset.brush = range.value;
        // the slider would lie on the picture: it closes where somebody presses elsewhere
        if (!open) document.body.dispatchEvent(new MouseEvent("mousedown", { bubbles: true }));
    };
    document.addEventListener("keydown", (event) => {
        const editor = shown();
        if (!editor || typing(event.target)) return;
        const command = event.ctrlKey || event.metaKey;
        const key = event.key.toLowerCase();
        const grows = { "[": 0.8, "]": 1.25 }[key];
        const label = command
            ? { z: event.shiftKey ? "Redo" : "Undo", y: "Redo" }[key]
            : { "+": "Zoom in", "=": "Zoom in", "-": "Zoom out" }[key];
        if (grows && !command) {
            resizing = resizing.then(() => resize(editor, grows));
        } else if (label) {
            press(editor, label);
        } else {
            return;
        }
        event.preventDefault();
        event.stopImmediatePropagation();
    }, true);
}"""

# With each status of any run gradio asks its fields for their values, and the editor then uploads
# all that it holds. Bytes that it has just sent are not sent again: the answer of before is.
ONCE = r"""() => {
    const KEPT_MS = 600_000;  // the server keeps an upload for longer
    const MOST = 12;  // three parts of a picture, of its last states
    const send = window.fetch;
    let sent = [];
    const same = (one, other) =>
        one.length === other.length && one.every((byte, at) => byte === other[at]);
    window.fetch = async (address, options) => {
        const form = options?.body;
        const asked = String(address).endsWith("/upload") && form instanceof FormData;
        const files = asked ? form.getAll("files") : [];
        if (files.length !== 1) return send(address, options);
        const { name } = files[0], bytes = new Uint8Array(await files[0].arrayBuffer());
        const now = performance.now();
        sent = sent.filter(({ time }) => now - time < KEPT_MS);
        let found = sent.find((one) => one.name === name && same(one.bytes, bytes));
        if (!found) {
            const read = async (answer) =>
                [await answer.text(), { status: answer.status, headers: answer.headers }];
            found = { name, bytes, time: now, answer: send(address, options).then(read) };
            sent = [found, ...sent].slice(0, MOST);
            const forget = () => { sent = sent.filter((one) => one !== found); };
            found.answer.then(([, { status }]) => status === 200 || forget(), forget);
        }
        return new Response(...await found.answer);
    };
}"""


def mask_editor() -> gr.ImageEditor:
    editor = gr.ImageEditor(
        label="Paint the area to replace (include its shadow)",
        type="filepath",
        format="png",
        sources=["upload", "clipboard"],
        # Any paint is mask; the second colour is for pictures on which pink does not show.
        brush=gr.Brush(colors=[("#ff4fd8", OPACITY), ("#ffffff", OPACITY)], color_mode="fixed"),
        layers=False,
        transforms=(),
        fixed_canvas=False,  # the canvas takes the picture's size, and so does the mask
        buttons=["fullscreen"],
        height=380,
        elem_classes="mask-editor",
    )
    gr.HTML(HINT, elem_classes="keys", padding=False)
    return editor


def mask_edits() -> Widgets:
    """What becomes of the mask, painted and uploaded, before it is used."""
    with gr.Row():
        return {
            "mask_invert": gr.Checkbox(
                False, label="Invert mask", info="draw all but what is painted", min_width=140
            ),
            "mask_grow": gr.Number(
                0,
                label="Grow mask (px)",
                info="below 0 it shrinks",
                precision=0,
                minimum=-MAX_GROW,
                maximum=MAX_GROW,
                min_width=140,
            ),
        }
