"""References on the command line: pictures, or embeds in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ipadapter_demo.cli.command import Arguments
from ipadapter_demo.cli.values import one_each, optional_layers, optional_path, picture
from ipadapter_demo.embeds import is_embeds, read_embeds
from ipadapter_demo.errors import RequestError
from ipadapter_demo.fit import REFERENCE_FITS
from ipadapter_demo.reference import negative_noise
from ipadapter_demo.request import COMBINES, Reference

BLANK = Image.new("RGB", (1, 1))  # stands for each picture of a folder


def add_reference_options(add: Callable[..., object], window: Mapping[str, Any]) -> None:
    add(
        "--reference",
        type=Path,
        action="append",
        metavar="R.png",
        help="a picture as a prompt, or a .safetensors file of embeds that was made of one; repeat "
        "it to mix several; or a folder: every picture in it",
    )
    add(
        "--reference-weight",
        type=float,
        action="append",
        metavar="W",
        help="once for all references, or once for each, 0 to 2 [1]",
    )
    add(
        "--reference-mask",
        type=optional_path,
        action="append",
        metavar="M.png",
        help="region mask: white where a reference applies; once for each, - for everywhere",
    )
    add(
        "--reference-window",
        **window,
        action="append",
        help="start and end of a reference, as shares of the steps; once for all, or once for each",
    )
    add(
        "--reference-only",
        type=int,
        action="append",
        metavar="N",
        help="use a reference only for this image of --count, from 0; once for each",
    )
    add(
        "--combine",
        choices=COMBINES,
        help="several references: concatenate or average them [concat]",
    )
    add(
        "--negative-reference",
        type=Path,
        action="append",
        metavar="R.png",
        help="a negative image prompt: a picture unlike the wanted one",
    )
    add(
        "--fit",
        choices=REFERENCE_FITS,
        action="append",
        help="how a reference that is not square is made so, tile: read as up to 4 squares; once "
        "for all, or once for each [crop]",
    )
    add(
        "--reference-clip-mask",
        type=optional_path,
        action="append",
        metavar="M.png",
        help="as large as a reference, and black where the image encoder is not to see it; once "
        "for each, - for none",
    )
    add(
        "--reference-face",
        type=int,
        action="append",
        metavar="N",
        help="which face of a reference a FaceID adapter reads, 1 is the leftmost; once for all, "
        "or once for each [0, the largest]",
    )
    add(
        "--reference-face-embeds",
        type=optional_path,
        action="append",
        metavar="F.safetensors",
        help="the embeds of the face in a reference, for FaceID Plus, which reads both; once for "
        "each, - for none",
    )
    add(
        "--reference-adapter",
        action="append",
        metavar="NAME",
        help="which image adapter reads a reference; once for all, or once for each, - for that of "
        "--adapter",
    )
    add(
        "--reference-layers",
        type=optional_layers,
        action="append",
        metavar="LAYERS",
        help="where a reference acts, as --layers; once for all, or once for each, - for that of "
        "--layers",
    )
    add(
        "--negative-noise",
        type=float,
        metavar="S",
        help="the first reference faded into noise by S, from 0 to 1, as a negative image prompt",
    )


def references_of(arguments: Arguments) -> tuple[Reference, ...] | None:
    paths = arguments.reference or []
    weights = one_each("--reference", "weight", paths, arguments.reference_weight, 1.0)
    windows = one_each("--reference", "window", paths, arguments.reference_window, (0.0, 1.0))
    masks = one_each("--reference", "mask", paths, arguments.reference_mask, None)
    hidden = one_each("--reference", "clip-mask", paths, arguments.reference_clip_mask, None)
    only = one_each("--reference", "only", paths, arguments.reference_only, None)
    faces = one_each("--reference", "face", paths, arguments.reference_face, 0)
    embeds = one_each("--reference", "face-embeds", paths, arguments.reference_face_embeds, None)
    adapters = one_each("--reference", "adapter", paths, arguments.reference_adapter, None)
    layers = one_each("--reference", "layers", paths, arguments.reference_layers, None)
    against = arguments.negative_reference or []
    if arguments.fit and not paths and not against:
        raise RequestError("--fit needs a --reference")
    shared = arguments.fit if len(arguments.fit or []) == 1 else None
    fits = (
        shared * len(paths)
        if shared
        else one_each("--reference", "fit", paths, arguments.fit, "crop")
    )
    positive = [
        Reference(
            **given(path, "--reference", clip_mask) | face_given(face, file),
            weight=weight,
            fit=fit,
            window=tuple(window),
            mask=None if mask is None else picture("--reference-mask", mask),
            only_image=number,
            adapter=None if adapter == "-" else adapter,
            layers=where,
        )
        for path, weight, fit, window, mask, clip_mask, number, face, file, adapter, where in zip(
            paths,
            weights,
            fits,
            windows,
            masks,
            hidden,
            only,
            faces,
            embeds,
            adapters,
            layers,
            strict=True,
        )
    ]
    negative = [
        Reference(
            **given(path, "--negative-reference"),
            negative=True,
            fit=shared[0] if shared else "crop",
        )
        for path in against
    ]
    if arguments.negative_noise is not None:
        if not positive or positive[0].image is None:
            raise RequestError("--negative-noise needs a --reference that is a picture")
        negative.append(negative_noise(positive[0], arguments.negative_noise))
    return tuple(positive + negative) or None


def given(path: Path, option: str, clip_mask: Path | None = None) -> dict[str, Any]:
    """The picture of a reference, and what of it the encoder does not see; or embeds."""
    hidden = None if clip_mask is None else picture("--reference-clip-mask", clip_mask)
    if path.is_dir():
        if option != "--reference":
            raise RequestError(
                f"{option} must be a picture or a file of embeds, got the folder {path}"
            )
        if hidden is not None:
            raise RequestError("--reference-clip-mask is of one picture, not of a folder")
        return {"image": BLANK}
    if is_embeds(path):
        return {"embeds": read_embeds(path, f"{option} {path}"), "clip_mask": hidden}
    return {"image": picture(option, path), "clip_mask": hidden}


def face_given(number: int, file: Path | None) -> dict[str, Any]:
    """The face of a picture by its number, or its embeds."""
    if file is None:
        return {"face": number}
    option = "--reference-face-embeds"
    return {"face": number, "embeds": read_embeds(file, f"{option} {file}")}
