"""Sliders: of a number, and of a window of steps."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ipadapter_demo.request import Window
from ipadapter_demo.ui.run.tab import Widgets

# gradio puts a number beyond a slider's ends at the nearer end, without a word.
LIMITS = """() => {
    const SAID = "beyond";
    document.addEventListener("blur", ({ target }) => {
        if (!target.matches?.(".block:has(input[type=range]) input[type=number]")) return;
        const { value, min, max } = target, block = target.closest(".block");
        block.querySelector(`.${SAID}`)?.remove();
        const taken = Math.min(Math.max(Number(value), Number(min)), Number(max));
        if (value !== "" && taken === Number(value)) return;
        const label = block.querySelector("[data-testid='block-info']")?.textContent.trim();
        const said = document.createElement("p");
        said.className = SAID;
        said.setAttribute("role", "status");
        const got = value || "nothing";
        block.append(said);
        const text = `“${label}” must be from ${min} to ${max}, got ${got}: ${taken} is taken.`;
        // screen readers say what changes in a live region, not what it comes with
        requestAnimationFrame(() => { said.textContent = text; });
    }, true);
    document.addEventListener("input", ({ target }) => {
        target.closest?.(".block")?.querySelector(`.${SAID}`)?.remove();
    }, true);
}"""


def slider(
    low: float, high: float, value: float, step: float, label: str, **layout: Any
) -> gr.Slider:
    """On a phone one below the other: half a screen is too narrow for a label and its number."""
    layout.setdefault("min_width", 200)
    return gr.Slider(low, high, value=value, step=step, label=label, buttons=[], **layout)


def window_sliders(start: str, end: str, window: Window = (0.0, 1.0), of: str = "") -> Widgets:
    """The part of the steps in which something acts, by the names of its two widgets."""
    return {
        start: slider(0, 1, window[0], 0.05, f"{of}start (share of steps)".capitalize()),
        end: slider(0, 1, window[1], 0.05, f"{of}end (share of steps)".capitalize()),
    }
