"""What keyboards and screen readers need and gradio's components leave out, put in from outside."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from pathlib import Path

from ipadapter_demo.request import GenerateRequest

# Looked for again after whatever changes on the page: each rule leaves out what it has done.
ACCESS = """() => {
    const labelled = (element, label) => element.setAttribute("aria-label", label);
    const label_of = (element) => element.closest(".block")
        ?.querySelector("[data-testid='block-label']")?.textContent.trim();
    const file_of = (element) => decodeURIComponent(
        element.querySelector("img")?.src.split("/").pop().replace(/\\.\\w+$/, "") ?? "");
    const place = (element) => [...element.parentNode.children].indexOf(element) + 1;
    const without = (element, ...names) => names.forEach((name) => element.removeAttribute(name));
    const rules = {
        ".image-container > button:not([aria-label])": (button) =>
            labelled(button, label_of(button) ?? "Picture"),
        "button.gallery-item:has(img[src]):not([aria-label])": (button) =>
            labelled(button, "Example " + place(button) + ": " + file_of(button)),
        "tr.tr-body td:has(img[src][alt=''])": (cell) => {
            cell.querySelector("img").alt = file_of(cell);
        },
        ".before-after img[alt='']": (image) => {
            const block = image.closest(".before-after");
            const first = block.querySelector("img") === image;
            image.alt = window.translated(first ? "Before" : "After");
        },
        // beside the buttons that draw, not over them; on a phone those are below
        ".toast-wrap:not([style*='bottom'])": ({ style }) => {
            if (innerWidth >= 640) Object.assign(style, { top: "auto", bottom: "12px" });
        },
        ".toast-header[role]": (header) =>
            without(header, "role", "tabindex"),  // it holds a button
        ".empty[aria-label]:not([role])": (empty) => empty.setAttribute("role", "img"),
        ".cm-scroller[tabindex='-1']": (code) => { code.tabIndex = 0; },
        // a button in a button: the outer one does what both did
        ".icon-button > div > .upload-container:not([inert])": (inner) => {
            inner.inert = true;
            inner.closest(".icon-button").addEventListener(
                "click", () => inner.querySelector("input").click());
        },
        ".results img": (image) => {
            const texts = image.closest(".outcome")?.querySelector(".status .alts");
            const thumbnail = image.closest(".thumbnail-item");
            const now = [image.src, texts?.value, thumbnail?.ariaLabel].join();
            if (image.described === now) return;
            const known = texts ? JSON.parse(texts.value) : {};
            const name = Object.keys(known).find((end) => image.src.endsWith("/" + end));
            const text = known[name] ?? thumbnail?.innerText.trim() ?? "";
            image.alt = window.translated(text);  // here, or the label below would change again
            if (thumbnail && image.alt) labelled(thumbnail, image.alt);
            image.described = [image.src, texts?.value, thumbnail?.ariaLabel].join();
        },
    };
    const mend = () => {
        planned = false;
        for (const [selector, rule] of Object.entries(rules))
            document.querySelectorAll(selector).forEach(rule);
        beside();
    };
    let planned = false, last = null, row = null;
    document.addEventListener("focusin", ({ target }) => {
        last = target;
        row = target.closest(".run");
    });
    // The focus of a button that goes with a run, or that has nothing to stop any more.
    const beside = () => {
        // a browser takes the focus from what is disabled a moment later
        if (!row || ![document.body, last].includes(document.activeElement)) return;
        if (last.checkVisibility() && !last.matches(".halt:disabled")) return;
        const others = [...row.querySelectorAll("button:enabled")];
        others.find((one) => one.checkVisibility())?.focus({ preventScroll: true });
    };
    // A button that is disabled while it works loses the focus: it gets it back.
    const refocus = ({ target }) => {
        if (target === last && !target.disabled && document.activeElement === document.body)
            target.focus({ preventScroll: true });
    };
    new MutationObserver((changes) => {
        changes.filter(({ attributeName }) => attributeName === "disabled").forEach(refocus);
        if (planned) return;
        planned = true;
        requestAnimationFrame(mend);
    }).observe(document.body, {
        childList: true, subtree: true, attributes: true,
        attributeFilter: ["disabled", "src", "aria-label"],  // gradio numbers thumbnails anew
    });
    const skip = document.createElement("button");
    skip.className = "skip";
    skip.textContent = "Skip to the button that draws";
    skip.addEventListener("click", () =>
        [...document.querySelectorAll("button.primary")].find((one) => one.offsetParent)?.focus());
    document.body.prepend(skip);
    mend();
}"""


def alts(paths: Iterable[Path | str], texts: Iterable[str]) -> str:
    """Hidden HTML for the status, from which the pictures of these files get their alternative
    texts."""
    known = {"/".join(Path(path).parts[-2:]): text for path, text in zip(paths, texts, strict=True)}
    value = html.escape(json.dumps(known, ensure_ascii=False))
    return f'<data class="alts" hidden value="{value}"></data>'


def picture_text(request: GenerateRequest, seed: int) -> str:
    """The alternative text of a result: prompt, λ and seed."""
    prompt = " ".join(request.prompt.split())[:200] or "variation of the reference"
    if request.references:
        prompt += f", λ = {request.image_scale:g}"
    return f"{prompt}, seed {seed}"
