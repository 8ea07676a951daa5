"""From the options of `generate` to a request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipadapter_demo.cli.command import Arguments
from ipadapter_demo.cli.references import references_of
from ipadapter_demo.cli.values import one_each, picture
from ipadapter_demo.errors import RequestError
from ipadapter_demo.lora import lora_at
from ipadapter_demo.outpainting import SIDES, outpaint
from ipadapter_demo.own_files import loras
from ipadapter_demo.request import GenerateRequest, Inpaint, Structure
from ipadapter_demo.upscale import Upscale

if TYPE_CHECKING:
    from ipadapter_demo.pipeline import ModelInfo

# Options named as the fields they set.
FIELDS = (
    "prompt",
    "negative_prompt",
    "prompt_2",
    "negative_prompt_2",
    "prompt_syntax",
    "clip_skip",
    "image_scale",
    "image_window",
    "image_layers",
    "combine",
    "adapter",
    "guidance",
    "guidance_window",
    "guidance_rescale",
    "steps",
    "sampler",
    "noise_schedule",
    "seed",
    "count",
    "width",
    "height",
)
OF_A_MASK = ("feather", "repaint_passes", "context", "background_weight")


def given_fields(arguments: Arguments, earlier: GenerateRequest | None = None) -> dict[str, Any]:
    """The fields of a request that the options set, and no others, with their pictures read.
    `earlier` is the request that they change."""
    fields = {name: getattr(arguments, name) for name in FIELDS}
    if arguments.lora is not None:
        try:
            fields["loras"] = tuple(lora_at(*each) for each in loras(arguments.lora))
        except ValueError as error:
            raise RequestError(str(error)) from error
    fields |= {
        "references": references_of(arguments),
        "structures": _structures(arguments),
        "inpaint": _inpaint(arguments, earlier.inpaint if earlier else None),
        "upscale": _upscale(arguments, earlier.upscale if earlier else None),
    }
    if vae_is_named(arguments.vae):
        fields["vae"] = arguments.vae
    if arguments.init is not None:
        fields["init_image"] = picture("--init", arguments.init)
    if arguments.init is not None or (earlier is not None and earlier.init_image is not None):
        fields["strength"] = arguments.strength
    elif arguments.strength is not None and fields["inpaint"] is None:
        raise RequestError("--strength needs --inpaint or --init")
    return {name: value for name, value in fields.items() if value is not None}


def completed(request: GenerateRequest, info: ModelInfo, arguments: Arguments) -> GenerateRequest:
    """The request with what the model decides: the first annotator for a kind, if none was named,
    and what it recommends for replacing a part of a picture."""

    def named(structure: Structure) -> Structure:
        if structure.annotator:
            return structure
        return replace(structure, annotator=info.usual_annotator(structure.kind))

    request = replace(request, structures=tuple(map(named, request.structures)))
    if arguments.inpaint is None or request.inpaint is None:
        return request
    open_ = {
        name: value
        for name, value in info.recommended.inpainting.items()
        if getattr(arguments, name) is None
    }
    return replace(request, inpaint=replace(request.inpaint, **open_))


def vae_is_named(given: str | None) -> bool:
    """True for the name of one in the folder of models, False for a place."""
    if given is None or Path(given).exists():
        return False
    return Path(given).name == given and not given.lower().endswith(".safetensors")


def folder_among(references: Sequence[Path] | None) -> int | None:
    """The number of the reference that is a folder of pictures. Raises RequestError for several."""
    found = [number for number, path in enumerate(references or ()) if path.is_dir()]
    if len(found) > 1:
        raise RequestError(f"--reference may name one folder, got {len(found)}")
    return found[0] if found else None


@contextmanager
def free_path(folder: Path, name: str) -> Iterator[Path]:
    """name.png, or name-2.png, ..., to be written: an earlier output is never overwritten, nor what
    another process draws meanwhile, from which an empty file keeps the name."""
    for number in count(1):
        path = folder / (f"{name}.png" if number == 1 else f"{name}-{number}.png")
        try:
            path.open("x").close()
            break
        except FileExistsError:
            continue
    try:
        yield path
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _structures(arguments: Arguments) -> tuple[Structure, ...] | None:
    """With "" as the annotator where none is named; see `completed`."""
    parts = arguments.structure or []
    weights = one_each("--structure", "weight", parts, arguments.structure_weight, 1.0)
    fits = one_each("--structure", "fit", parts, arguments.structure_fit, "crop")
    if arguments.structure_window and not parts:
        raise RequestError("--structure-window needs a --structure")
    return (
        tuple(
            Structure(
                kind=kind,
                annotator=annotator,
                image=picture(f"--structure {kind}", path),
                weight=weight,
                fit=fit,
                window=arguments.structure_window or (0.0, 1.0),
            )
            for (kind, annotator, path), weight, fit in zip(parts, weights, fits, strict=True)
        )
        or None
    )


def _inpaint(arguments: Arguments, earlier: Inpaint | None) -> Inpaint | None:
    options = {name: getattr(arguments, name) for name in ("strength", *OF_A_MASK)}
    given = {name: value for name, value in options.items() if value is not None}
    by = arguments.extend
    if by is not None and arguments.inpaint is None:
        raise RequestError("--extend needs --inpaint")
    if by is None and (arguments.inpaint is None) != (arguments.mask is None):
        raise RequestError("--inpaint and --mask must be given together")
    if arguments.inpaint is None and earlier is not None:
        return replace(earlier, **given) if given else None
    if arguments.inpaint is None:
        for option in OF_A_MASK:
            if option in given:
                raise RequestError(f"--{option.replace('_', '-')} needs --inpaint")
        return None
    image = picture("--inpaint", arguments.inpaint)
    mask = None if arguments.mask is None else picture("--mask", arguments.mask)
    if by is not None:
        sides = dict(zip(SIDES, by, strict=True))
        return outpaint(image, mask=mask, **sides, **given)
    assert mask is not None
    return Inpaint(image=image, mask=mask, **given)


def _upscale(arguments: Arguments, earlier: Upscale | None) -> Upscale | None:
    options = {
        "factor": arguments.upscale,
        "strength": arguments.upscale_strength,
        "enlarge": arguments.enlarge,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return None
    if earlier is None and arguments.upscale is None:
        option = "--upscale-strength" if "strength" in given else "--enlarge"
        raise RequestError(f"{option} needs --upscale")
    return replace(earlier or Upscale(), **given)
