"""A comparison with everything said, so that equal ones are equal documents."""

from __future__ import annotations

from hashlib import sha256
from pathlib import PurePosixPath

from ipadapter_demo.compare.axes import SIDES, all_axes, combinations, count_cells
from ipadapter_demo.compare.comparison import ComparisonSpec
from ipadapter_demo.compare.schema import parsed
from ipadapter_demo.compare.spec import Document, Spec
from ipadapter_demo.embeds import ENDING
from ipadapter_demo.lora import loras_from_texts, texts_from_loras
from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.request import GenerateRequest

# That stay, of a file's name.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ENDING)


def completed(spec: Spec, info: ModelInfo) -> Spec:
    """The same comparison with everything said: the model, what it recommends, the heads, and
    files by their content. Equal comparisons are equal documents, wherever they come from."""
    comparison = spec.comparison
    count_cells(comparison)  # before anything is written out that many times
    differs, given = all_axes(comparison), comparison.request
    beside: dict[str, object] = {
        "prompt": any([*differs.get("prompt", ()), given.prompt]),
        "structures": any([*differs.get("structure", ()), *given.structures]),
        "inpaint": given.inpaint,
    }
    if "loras" in differs:  # no settings are for all of them
        beside["loras"] = ()
    elif given.loras is not None:
        beside["loras"] = loras_from_texts(given.loras)
    recommended: dict[str, object] = {"seed": 0} | info.fields_beside(beside)
    samplers = differs.get("sampler", [given.sampler])
    schedules = {info.fields_beside(beside | {"sampler": s})["noise_schedule"] for s in samplers}
    if len(schedules) > 1:  # one that all of them take
        schedules = {"default"}
    [recommended["noise_schedule"]] = schedules
    if info.usual_loras:
        recommended["loras"] = texts_from_loras(info.usual_loras)
    named = spec.with_files_named(lambda name: _place(name, spec.files[name]))
    document = {"title": "", "model": info.name, **named.document, "schema": 1}
    document["labels"] = {
        side: [head for head, _ in combinations(comparison, side)] for side in SIDES
    }
    request = document["request"] = recommended | document.get("request", {})
    if "inpaint" in request:
        request["inpaint"] = info.recommended.inpainting | request["inpaint"]
    return Spec(parsed(document, ComparisonSpec, "spec"), named.files)


def with_everything_said(document: Document) -> Document:
    """A document of `completed`. Those of before did not say these where they were a request's own,
    and a model may recommend others since."""
    request = document.get("request")
    if not isinstance(request, dict):
        return document
    usual = GenerateRequest()
    own = {
        "guidance_window": list(usual.guidance_window),
        "sampler": usual.sampler,
        "noise_schedule": usual.noise_schedule,
    }
    return {**document, "request": own | request}


def _place(name: str, content: bytes) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    known = suffix if suffix in SUFFIXES else ""
    return f"inputs/{sha256(content).hexdigest()[:16]}{known}"
