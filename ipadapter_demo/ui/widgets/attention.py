"""Attention maps over the pictures: one row for each reference, in colour, by layer and step, drawn
in the browser from small pictures of all maps (`ipadapter_demo.adapter.attention_maps`)."""

from __future__ import annotations

import html
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from ipadapter_demo.pipeline.events import AttentionTiles
from ipadapter_demo.ui.run.addresses import file_url

# Of matplotlib's viridis, from 0 to 1: even steps look even, also without colour.
COLOURS = ("440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725")

# `element` and `watch` are gradio's. A map is a mean of tiles: rows are layers, columns are steps.
ON_LOAD = """
const COLOURS = LIST.map((c) => [0, 2, 4].map((i) => parseInt(c.slice(i, i + 2), 16)));
const colour = (share) => {
    const at = Math.min(COLOURS.length - 1.001, share * (COLOURS.length - 1)), k = Math.floor(at);
    return COLOURS[k].map((v, i) => v + (at - k) * (COLOURS[k + 1][i] - v));
};
const tiles = async (canvas) => {
    const image = new Image();
    image.src = canvas.dataset.tiles;
    await image.decode();
    const all = document.createElement("canvas"), { layers, steps } = canvas.dataset;
    [all.width, all.height] = [image.width, image.height];
    const context = all.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const [width, height] = [image.width / steps, image.height / layers];
    return { canvas, width, height, wide: image.width, layers: +layers, steps: +steps,
        data: context.getImageData(0, 0, image.width, image.height).data };
};
const mean = ({ width, height, wide, layers, steps, data }, layer, step) => {
    const found = new Float64Array(width * height);
    const rows = layer < 0 ? [...Array(layers).keys()] : [Math.min(layer, layers - 1)];
    const columns = step < 0 ? [...Array(steps).keys()] : [Math.min(step, steps - 1)];
    for (const row of rows) for (const column of columns)
        for (let y = 0; y < height; y++) for (let x = 0; x < width; x++)
            found[y * width + x] += data[4 * ((row * height + y) * wide + column * width + x)];
    return found.map((v) => v / (255 * rows.length * columns.length));
};
let maps = [];
const setting = (name) => +element.querySelector(`[name=${name}]`).value;
const show = () => {
    if (!maps.length) return;
    const [layer, step] = [setting("layer"), setting("step")];
    const means = maps.map((one) => mean(one, layer, step));
    const most = Math.max(...means.map((one) => Math.max(...one)));
    const least = Math.min(...means.map((one) => Math.min(...one)), most - 0.01);
    maps.forEach(({ canvas, width, height }, k) => {
        [canvas.width, canvas.height] = [width, height];
        const made = new ImageData(width, height);
        means[k].forEach((v, i) => {
            made.data.set([...colour((v - least) / (most - least)), 255], 4 * i);
        });
        canvas.getContext("2d").putImageData(made, 0, 0);
        canvas.style.opacity = setting("opacity");
    });
    for (const [name, share] of [["least", Math.max(0, least)], ["most", most]])
        element.querySelector(`.${name}`).textContent = `${Math.round(100 * share)} %`;
    element.querySelector("output").textContent = step < 0 ? "all" : step + 1;
};
element.addEventListener("input", show);
const load = async () => {
    maps = await Promise.all([...element.querySelectorAll("canvas")].map(tiles));
    show();
};
watch("value", load);
""".replace("LIST", str(list(COLOURS)))
MEANING = (
    "How much each place of the picture comes from the reference, and not from the text: where it "
    "is high, the picture follows the reference."
)


def attention_view() -> gr.HTML:
    """Empty until maps are drawn."""
    return gr.HTML(
        "",
        label="Attention maps",
        elem_classes="attention",
        js_on_load=ON_LOAD,
        apply_default_css=False,
        padding=False,
    )


Shown = tuple[Image.Image, str, Sequence[AttentionTiles]]  # picture, caption, one a reference


def attention_html(pictures: Sequence[Shown]) -> str:
    """Nothing where no picture has maps."""
    every = [one for _, _, tiles in pictures for one in tiles]
    if not every:
        return ""
    folder = Path(get_upload_folder()) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    layers, steps = max(one.layers for one in every), max(one.steps for one in every)
    count = max(len(tiles) for _, _, tiles in pictures)
    rows = "".join(
        f"<h4>{f'Reference {number + 1}' if count > 1 else 'Reference'}</h4>"
        f'<div class="maps">{"".join(_figures(folder, pictures, number))}</div>'
        for number in range(count)
    )
    choices = "".join(f'<option value="{n}">{n + 1}</option>' for n in range(layers))
    bar = ", ".join(f"#{colour}" for colour in COLOURS)
    return (
        f"<p><b>Attention maps.</b> {html.escape(MEANING)}</p>"
        '<div class="controls"><label>Layer <select name="layer" aria-label="Layer of the maps">'
        '<option value="-1">all</option>'
        f"{choices}</select></label>"
        '<label>Step <input type="range" name="step" aria-label="Step of the maps" '
        f'min="-1" max="{steps - 1}" value="-1">'
        "<output>all</output></label>"
        '<label>Opacity <input type="range" name="opacity" min="0" max="1" step="0.05" value="0.6">'
        "</label>"
        '<span class="bar"><span class="least"></span> '
        f'<i style="background: linear-gradient(to right, {bar})"></i> '
        f'<span class="most"></span></span></div>{rows}'
    )


def _figures(folder: Path, pictures: Sequence[Shown], number: int) -> Iterator[str]:
    for picture, caption, tiles in pictures:
        if number >= len(tiles):
            continue
        shown, maps = (folder / f"{secrets.token_hex(8)}.png" for _ in range(2))
        picture.save(shown)
        tiles[number].image.save(maps)
        label = html.escape(caption)
        yield (
            f'<figure><div class="over"><img src="{file_url(shown)}" alt="{label}">'
            f'<canvas data-tiles="{file_url(maps)}" data-layers="{tiles[number].layers}" '
            f'data-steps="{tiles[number].steps}"></canvas></div>'
            f"<figcaption>{label}</figcaption></figure>"
        )
