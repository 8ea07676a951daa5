"""Pictures of the page dragged into a field, such as results."""

from __future__ import annotations

# A field has a hidden input for files, also where it shows a picture. gradio's own reading of a
# dragged picture sees only its address, and refuses that.
DRAG = """() => {
    let dragged = null;
    const field = (event) => dragged && event.target.closest?.(".block:has(input[type=file])");
    const inSight = (one) => {
        const { top, bottom } = one.getBoundingClientRect();
        return top >= 0 && bottom <= innerHeight;
    };
    // From the history at the foot of the page no field may be in sight.
    const reveal = () => {
        const all = document.querySelectorAll("[role=tabpanel] .block:has(input[type=file])");
        const fields = [...all].filter((one) => one.checkVisibility());
        if (!fields.some(inSight)) fields[0]?.scrollIntoView({ block: "center" });
    };
    const mark = (block) => {
        document.querySelectorAll(".drop-here").forEach((one) => one.classList.remove("drop-here"));
        block?.classList.add("drop-here");
    };
    document.addEventListener("dragstart", ({ target }) => {
        const picture = target.closest?.("img") ?? target.querySelector?.("img");
        dragged = /gradio_api\\/file=|^blob:/.test(picture?.src ?? "") ? picture.src : null;
        if (dragged) setTimeout(reveal);  // a change at once would end the drag
    }, true);
    document.addEventListener("dragend", () => { dragged = null; mark(null); }, true);
    document.addEventListener("dragover", (event) => {
        mark(field(event));
        if (!field(event)) return;
        event.preventDefault();
        event.stopPropagation();
    }, true);
    document.addEventListener("drop", async (event) => {
        const block = field(event), address = dragged;
        dragged = null;
        mark(null);
        if (!block) return;
        event.preventDefault();
        event.stopPropagation();
        const content = await (await fetch(address)).blob();
        const name = decodeURIComponent(address.split("/").pop().split("?")[0]);
        const made = new DataTransfer(), input = block.querySelector("input[type=file]");
        const given = /\\.png$/.test(name) ? name : "picture.png";
        made.items.add(new File([content], given, { type: content.type || "image/png" }));
        input.files = made.files;
        input.dispatchEvent(new Event("change", { bubbles: true }));
    }, true);
}"""
