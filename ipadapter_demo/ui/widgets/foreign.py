"""Files that can be read but that no browser can show, HEIC of phones and TIFF: the page sends them
to the server as soon as they are chosen and goes on with the PNG that comes back."""

from __future__ import annotations

import secrets
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from ipadapter_demo.imaging import flatten_image, read_image, shrink_image
from ipadapter_demo.room import room_for
from ipadapter_demo.ui.run.errors import shown_errors
from ipadapter_demo.ui.run.uploads import MAX_INPAINT_SIDE, path_of_upload

UNREADABLE = "This file is not a picture that can be shown. Remove it, or choose another."
# Widgets of gradio take "image/*", and for most systems a .heic file has no type at all. A file
# dialogue gets the endings; a chosen or dropped file is replaced before gradio looks at it.
CONVERT = r"""() => {
    const foreign = /\.(heic|heif|hif|tiff?)$/i;
    const takesPictures = (input) => input?.matches?.("input[type=file][accept^='image/*']");
    const at = (place) => new URL("gradio_api/" + place, document.baseURI);
    const asPng = async (file) => {
        const form = new FormData();
        form.append("files", file);
        const [path] = await (await fetch(at("upload"), { method: "POST", body: form })).json();
        const asked = await fetch(at("call/as_png"), {
            method: "POST",
            headers: { "Content-Type": "application/json" },
            body: JSON.stringify({ data: [{ path, meta: { _type: "gradio.FileData" } }] }),
        });
        const said = await (await fetch(at("call/as_png/" + (await asked.json()).event_id))).text();
        const [png] = JSON.parse(said.match(/event: complete\ndata: (.*)/)[1]);
        const content = await (await fetch(at("file=" + png.path))).blob();
        return new File([content], file.name.replace(foreign, ".png"), { type: "image/png" });
    };
    const replace = async (zone, files) => {
        const made = new DataTransfer();
        for (const file of files) {
            const png = foreign.test(file.name) && (await asPng(file).catch(() => null));
            made.items.add(png || file);
        }
        const now = zone.querySelector(":scope > input[type=file]");  // gradio may have made anew
        now.files = made.files;
        now.dispatchEvent(new CustomEvent("change", { bubbles: true, detail: "converted" }));
    };
    const takenOver = (event, input, files) => {
        if (!takesPictures(input) || event.detail === "converted") return;
        if (![...(files ?? [])].some((file) => foreign.test(file.name))) return;
        event.preventDefault();
        event.stopImmediatePropagation();
        replace(input.parentNode, [...files]);
    };
    document.addEventListener("click", ({ target }) => {
        if (takesPictures(target)) target.accept = "image/*,.heic,.heif,.hif,.tif,.tiff";
    }, true);
    document.addEventListener("change", (event) => {
        takenOver(event, event.target, event.target.files);
    }, true);
    document.addEventListener("drop", (event) => {
        let zone = event.target;
        while (zone && !zone.querySelector?.(":scope > input[type=file]")) zone = zone.parentNode;
        takenOver(event, zone?.querySelector("input[type=file]"), event.dataTransfer.files);
        zone?.dispatchEvent(new DragEvent("dragleave"));
    }, true);
    for (const kind of ["error", "load"]) document.addEventListener(kind, ({ target }) => {
        if (!target.matches?.(".image-container img")) return;
        target.alt = kind === "error" ? window.translated("UNREADABLE") : "";
        target.toggleAttribute("data-unreadable", kind === "error");
    }, true);
}""".replace("UNREADABLE", UNREADABLE)


def png_endpoint() -> None:
    """`/as_png`, for the page's own script."""
    given, made = gr.File(visible=False), gr.File(visible=False)
    gr.Button(visible=False).click(  # it does not run the model
        as_png,
        inputs=given,
        outputs=made,
        preprocess=False,
        show_progress="hidden",
        api_name="as_png",
        api_visibility="private",
        concurrency_limit=2,
    )


def as_png(picture: object) -> str:
    """A picture of any format that can be read, as a PNG that any browser shows. Transparency
    stays; one that is larger than results can be comes smaller."""
    with shown_errors():
        upload = path_of_upload(picture, "picture")
        path = Path(get_upload_folder()) / secrets.token_hex(16) / "picture.png"
        with room_for(upload):
            image = read_image(upload, "picture")
            if image.mode not in ("L", "LA", "RGBA"):
                image = shrink_image(flatten_image(image, "picture"), MAX_INPAINT_SIDE)
            path.parent.mkdir(parents=True)
            image.save(path, "PNG", compress_level=1)
        return str(path)
