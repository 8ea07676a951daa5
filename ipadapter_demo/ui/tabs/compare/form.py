"""The values of the Compare tab as the document of a spec."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ipadapter_demo.checks import text
from ipadapter_demo.compare import Spec, spec_from_document, spec_from_text
from ipadapter_demo.compare.document import MAX_TEXT
from ipadapter_demo.compare.spec import Document
from ipadapter_demo.errors import RequestError
from ipadapter_demo.room import size_by_header
from ipadapter_demo.ui.run.uploads import MAX_INPAINT_SIDE

NUMBERS = (
    "image_scale",
    "guidance",
    "guidance_rescale",
    "steps",
    "seed",
    "structure_weight",
    "clip_skip",
    "strength",
    "upscale_strength",
)
NUMBERS_HINT = "0, 0.5, 1 or first:last:step"
LINES_HINT = "one a line"
# What a side may differ in, as people call it, and the values that it takes.
AXES = {
    "": ("nothing", ""),
    "reference": ("reference", "empty: all pictures"),
    "prompt": ("prompt", LINES_HINT),
    "negative_prompt": ("negative prompt", LINES_HINT),
    "prompt_2": ("SDXL's second prompt", LINES_HINT),
    "negative_prompt_2": ("SDXL's second negative prompt", LINES_HINT),
    "prompt_syntax": ("prompt syntax", "plain, weighted"),
    "clip_skip": ("clip skip", "0, 1, 2"),
    "image_scale": ("strength λ", NUMBERS_HINT),
    "image_window": ("image window", "0 0.5, one a line"),
    "guidance": ("guidance", NUMBERS_HINT),
    "guidance_window": ("guidance window", "0.2 0.8, one a line"),
    "guidance_rescale": ("guidance rescale", NUMBERS_HINT),
    "steps": ("steps", "10, 20, 30 or first:last:step"),
    "sampler": ("sampler", LINES_HINT),
    "noise_schedule": ("noise schedule", "default, karras, leading, trailing"),
    "seed": ("seed", "1, 2, 3 or 1:4"),
    "fit": ("fit", "crop, pad, squash"),
    "combine": ("combine", "concat, average"),
    "image_layers": ("layers", "all, style, layout, …"),
    "adapter": ("adapter", LINES_HINT),
    "loras": ("LoRAs", "style:0.8, or none, one a line"),
    "vae": ("VAE", "by name, or none, one a line"),
    "model": ("model", LINES_HINT),
    "structure": ("control image", "canny=picture.png, one a line"),
    "structure_weight": ("control weight", NUMBERS_HINT),
    "strength": ("denoising strength", "of a start picture, or of inpainting"),
    "upscale_strength": ("strength of the second pass", NUMBERS_HINT),
    "method": ("method", "as it is, image only, text only, image to image"),
}
SHARED = (
    "prompt",
    "negative_prompt",
    "image_scale",
    "adapter",
    "guidance",
    "steps",
    "sampler",
    "seed",
)

SIDES = ("columns", "rows", "pages")
TEXTS = (
    "title",
    "structure",
    "zoom",
    *(f"{s}_{part}" for s in SIDES for part in ("axis", "values")),
)

Read = Callable[[str], bytes]


def spec_from_form(
    written: str, form: Mapping[str, Any], pictures: Sequence[str], read: Read
) -> Spec:
    """The spec that is `written`, or else what the form asks for; `pictures` are the names of the
    files that `read` knows. Raises RequestError."""
    text("spec", written, MAX_TEXT)
    for name in TEXTS:
        text(name, form[name], MAX_TEXT)
    if not isinstance(form["beside"], (list, type(None))):
        raise RequestError(f"beside must be a list, got {form['beside']!r:.80}")
    if written.strip():
        spec = spec_from_text(written, read)
    else:
        spec = spec_from_document(document_from_form(form, pictures), read)
    _check_inpaint(spec)
    return spec


def _check_inpaint(spec: Spec) -> None:
    """A cell has the size of the picture to inpaint, which its price does not know."""
    given = spec.comparison.request.inpaint
    size = given and size_by_header(spec.files[given.image])
    if size and max(size) > MAX_INPAINT_SIDE:
        raise RequestError(
            f"inpaint.image must have at most {MAX_INPAINT_SIDE} pixels a side, got "
            f"{size[0]}x{size[1]}: make it smaller, or draw the comparison on the command line"
        )


def document_from_form(form: Mapping[str, Any], pictures: Sequence[str]) -> Document:
    """Only what differs from a request's defaults, as somebody would write it."""
    document: Document = {"title": form["title"]} if form["title"] else {}
    document["model"] = form["model"]
    request = {name: form[name] for name in SHARED if form[name] not in ("", None)}
    pictures = [name for name in pictures if name != form["structure"]]
    for side in SIDES:
        axis = form[f"{side}_axis"] or ""
        if axis not in AXES:
            known = ", ".join(name for name in AXES if name)
            raise RequestError(f"{side} must differ in one of {known}, got {axis!r:.80}")
        if axis:
            document[side] = {axis: values(side, axis, form[f"{side}_values"], pictures)}
            request.pop(axis, None)
    if "columns" not in document:
        raise RequestError("columns: choose what differs from column to column")
    differs = {name for side in SIDES for name in document.get(side, {})}
    if "reference" not in differs and pictures:
        request["references"] = [{"image": name} for name in pictures]
    if form["structure"] and "structure" not in differs:
        kind, _, annotator = str(form["kind"]).partition("/")
        request["structures"] = [
            {
                "kind": kind,
                "annotator": annotator,
                "image": form["structure"],
                "weight": form["structure_weight"],
            }
        ]
    document["request"] = request
    if form["beside"]:
        document["beside"] = list(form["beside"])
    document["figure"] = {"width": form["width"], "dpi": form["dpi"]}
    if form["zoom"].strip():
        document["figure"]["zoom"] = _numbers("zoom", form["zoom"])
    return document


def values(
    side: str, axis: str, written: str, pictures: Sequence[str]
) -> str | list[str] | list[float] | list[list[float]]:
    """A range as it is written; numbers with commas between them; texts, one a line."""
    written = written.strip()
    if axis == "reference" and not written:
        if not pictures:
            raise RequestError(f"{side}: upload the pictures to compare first")
        return list(pictures)
    if not written:
        raise RequestError(f"{side}: say which values of {AXES[axis][0]} to compare")
    if axis in NUMBERS:
        return written if ":" in written else _numbers(side, written)
    if axis in ("guidance_window", "image_window"):
        return [_numbers(side, line) for line in written.split("\n") if line.strip()]
    if axis in ("fit", "combine", "method", "image_layers", "noise_schedule", "prompt_syntax"):
        return [part.strip() for part in re.split(r"[,\n]", written) if part.strip()]
    return [line.strip() for line in written.split("\n") if line.strip()]


def _numbers(field: str, written: str) -> list[float]:
    try:
        found = [float(part) for part in re.split(r"[,;\s]+", written) if part]
    except ValueError:
        raise RequestError(
            f"{field} must be numbers with commas, or first:last:step, got {written!r:.80}"
        ) from None
    return [int(n) if n.is_integer() else n for n in found]
