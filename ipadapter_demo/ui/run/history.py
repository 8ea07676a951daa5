"""The history of a tab of the browser, as a strip of thumbnails: a click loads all settings.

The PNGs lie in the browser's own storage (IndexedDB) under a name that lives as long as its tab,
and are not sent anywhere until one is clicked. What other tabs left is deleted after half a day.
"""

from __future__ import annotations

import gradio as gr

from ipadapter_demo.ui.run.running import AT_ONCE
from ipadapter_demo.ui.run.tab import BuiltTab

MOST = 24  # runs
MAX_BYTES = 20_000_000  # of one PNG
CLEAR = "All runs of the history are deleted from this browser. This cannot be undone."

# `trigger`, `element` and `props` are gradio's. A run is remembered by its first picture.
ON_LOAD = (
    """
const OLD = 12 * 3600 * 1000;
const session = (sessionStorage.history ??= Math.random().toString(36).slice(2));
const opened = new Promise((done, failed) => {
    const asked = indexedDB.open("ip-adapter-history", 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore("runs", { autoIncrement: true });
    asked.onsuccess = () => done(asked.result);
    asked.onerror = () => failed(asked.error);
});
const store = async (mode) => (await opened).transaction("runs", mode).objectStore("runs");
const answered = (asked) => new Promise((done, failed) => {
    asked.onsuccess = () => done(asked.result);
    asked.onerror = () => failed(asked.error);
});
const all = async () => {
    const runs = await store("readonly");
    const asked = [runs.getAllKeys(), runs.getAll()].map(answered);
    const [keys, values] = await Promise.all(asked);
    return keys.map((key, n) => ({ key, ...values[n] }));
};
const forget = async (unwanted) => {
    const gone = (await all()).filter(unwanted), runs = await store("readwrite");
    await Promise.all(gone.map(({ key }) => answered(runs.delete(key))));
};
const restore = ({ file }) => {
    const input = document.querySelector(".header input[type=file]"), made = new DataTransfer();
    made.items.add(file);
    input.files = made.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
};
const button = (text, click) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.addEventListener("click", click);
    return made;
};
const show = async () => {
    const runs = (await all()).filter((run) => run.session === session).reverse();
    element.querySelectorAll("img").forEach(({ src }) => URL.revokeObjectURL(src));
    element.replaceChildren();
    if (!runs.length) return;
    const title = document.createElement("p"), strip = document.createElement("div");
    title.textContent = "History, kept in this browser. Click a run to load its settings. ";
    title.append(button("Clear history", async () => {
        if (!confirm(window.translated("CLEAR"))) return;
        await forget((run) => run.session === session);
        await show();
    }));
    strip.className = "strip";
    for (const run of runs) {
        const one = button("", () => restore(run)), image = document.createElement("img");
        image.src = URL.createObjectURL(run.file);
        image.alt = `Load the settings of ${run.text || run.file.name} (${run.tab})`;
        one.append(image);
        strip.append(one);
    }
    element.append(title, strip);
};
window.rememberRun = async (gallery, tab, middle) => {
    const pictures = (gallery ?? []).filter((one) => one.image?.orig_name || one.image?.url);
    const image = pictures[middle ? pictures.length >> 1 : 0]?.image;
    if (!image?.url) return;
    const blob = await (await fetch(image.url)).blob();
    if (blob.size > MAX_BYTES) return;
    const name = decodeURIComponent(image.url.split("/").pop());
    const texts = [...document.querySelectorAll(".status .alts")]
        .flatMap(({ value }) => Object.entries(JSON.parse(value)));
    const text = texts.find(([end]) => image.url.endsWith(`/${end}`))?.[1];
    const file = new File([blob], name, { type: "image/png" });
    await answered((await store("readwrite")).add(
        { session, tab, file, text, at: Date.now() }));
    const mine = (await all()).filter((run) => run.session === session);
    const surplus = mine.slice(0, Math.max(0, mine.length - MOST)).map(({ key }) => key);
    await forget(({ key }) => surplus.includes(key));
    await show();
};
forget((run) => run.session !== session && Date.now() - run.at > OLD).then(show).catch(() => {});
""".replace("MAX_BYTES", str(MAX_BYTES))
    .replace("MOST", str(MOST))
    .replace("CLEAR", CLEAR)
)
# A browser that keeps nothing, as in some private windows, has no history.
REMEMBER = """(gallery) => {
    window.rememberRun?.(gallery, "TAB", MIDDLE).catch(() => {});
    return [];
}"""


def history_strip() -> gr.HTML:
    return gr.HTML("", elem_classes="history", js_on_load=ON_LOAD, apply_default_css=False)


def remember_runs(built: BuiltTab) -> None:
    """Keep each run of a tab that came to its end; of a sweep of λ the picture in the middle."""
    sweep = None if built.buttons.strip is None else built.runs[1]
    for run in built.runs:
        middle = "true" if run is sweep else "false"
        js = REMEMBER.replace("TAB", built.tab.label).replace("MIDDLE", middle)
        run.success(None, js=js, inputs=built.results.gallery, **AT_ONCE)
