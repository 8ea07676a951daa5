"""The `generate` command."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

from ipadapter_demo.cli.command import PROGRAM, Arguments, Command, Load, print_line, progress
from ipadapter_demo.cli.model import loaded
from ipadapter_demo.cli.pictures import add_picture_options
from ipadapter_demo.cli.prompts import add_prompt_options
from ipadapter_demo.cli.references import add_reference_options
from ipadapter_demo.cli.values import layers, structure
from ipadapter_demo.errors import RequestError
from ipadapter_demo.layer_presets import LAYER_PRESETS
from ipadapter_demo.model_flags import add_model_options
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.request import FITS, SAMPLERS
from ipadapter_demo.sampling import NOISE_SCHEDULES

TEXT = """\
Make pictures from a picture, words, a structure, a mask, or all of them at once.

Writes PNGs with the settings saved inside, and prints a JSON line for each: its path, its seed, and
the seconds the request took. Image i of --count starts from seed + i. With a folder of references
DIR/manifest.jsonl has these lines too, each with its reference.
"""


EXAMPLES = f"""\
examples:
  variations of a picture
    {PROGRAM} generate --reference R.png --count 4
  a picture edited by words
    {PROGRAM} generate --reference R.png --prompt "on a green checkered floor"
  the looks of R.png on the edges of C.png
    {PROGRAM} generate --reference R.png --structure canny=C.png
  the white part of M.png filled in, in I.png
    {PROGRAM} generate --reference R.png --inpaint I.png --mask M.png
  a picture that goes on 64 pixels to its left and right
    {PROGRAM} generate --reference R.png --inpaint I.png --extend 64 0 64 0
  twice as large as the model draws, in two passes
    {PROGRAM} generate --reference R.png --upscale 2
  every picture of a folder; run it again, and it goes on where it was stopped
    {PROGRAM} generate --reference FOLDER --out DIR
  a picture by its embeds alone, made before by `embeds R.png --out R.safetensors`
    {PROGRAM} generate --reference R.safetensors
  an output made again, and with another seed
    {PROGRAM} generate --from-png outputs/7.png
    {PROGRAM} generate --from-png outputs/7.png --seed 8
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    window: dict[str, Any] = {"nargs": 2, "type": float, "metavar": ("START", "END")}
    add = parser.add_argument_group("what to make").add_argument
    add_reference_options(add, window)
    add(
        "--scale",
        dest="image_scale",
        type=float,
        metavar="λ",
        help="strength of the references, 0 to 2 [the model's: tabletop 1, beside a "
        "prompt 0.7, beside a structure 0.75]",
    )
    add(
        "--scale-window",
        dest="image_window",
        **window,
        help="start and end of all references, as shares of the steps [0 1]",
    )
    add(
        "--layers",
        dest="image_layers",
        type=layers,
        metavar="LAYERS",
        help="apply the references to layers: one of "
        f"{', '.join(LAYER_PRESETS)}; or a factor for each cross-attention layer, as 1,0.5,... "
        "[all]",
    )
    add(
        "--adapter",
        metavar="NAME",
        help="which of the model's image adapters reads the references [the model's first]",
    )
    add_prompt_options(add)
    add(
        "--structure",
        type=structure,
        action="append",
        metavar="KIND[:ANNOTATOR]=C.png",
        help="control type and control image: canny=C.png, "
        "canny:lineart=C.png, or canny:none=map.png for a ready map; repeatable. KIND is one of "
        f"the model's (tabletop: {', '.join(TABLETOP.structures)}), ANNOTATOR by default the first "
        "of the kind's",
    )
    add(
        "--structure-weight",
        type=float,
        action="append",
        metavar="W",
        help="control weight, once for all control images, or once for each, 0 to 2 [1]",
    )
    add(
        "--structure-fit",
        choices=FITS,
        action="append",
        help="how a control image of other proportions than the output is fitted; once for all "
        "of them, or once for each [crop]",
    )
    add(
        "--structure-window",
        **window,
        help="start and end of control, as shares of the steps [0 1]",
    )
    add_picture_options(add)
    add(
        "--from-png",
        type=Path,
        metavar="P.png",
        help="the request inside an output PNG; other options replace parts of it, those of a "
        "reference or a structure together with it. Of a PNG of A1111, ComfyUI or InvokeAI its "
        "settings, as far as they are the same here",
    )

    add = parser.add_argument_group("how").add_argument
    add(
        "--guidance",
        type=float,
        metavar="G",
        help="how closely to follow all this, 1 to 30 [the model's: tabletop 6]",
    )
    add(
        "--guidance-window",
        **window,
        help="start and end of guidance, as shares of the steps; those without cost half "
        "[the model's: tabletop 0 0.7, inpainting 0 1]",
    )
    add(
        "--guidance-rescale",
        type=float,
        metavar="R",
        help="0 to 1, against overexposure by guidance; 0.7 suits v-prediction [0]",
    )
    add(
        "--steps",
        type=int,
        metavar="N",
        help="denoising steps [the model's: tabletop 8, inpainting 6, with a prompt 12]",
    )
    add("--sampler", choices=SAMPLERS, help="[dpm++]")
    add(
        "--noise-schedule",
        choices=NOISE_SCHEDULES,
        help="the noise levels of the steps, where the sampler can take others [the model's own]",
    )
    add("--seed", type=int, metavar="N", help="where the noise comes from [0]")
    add("--count", type=int, metavar="N", help="number of images [1]")
    add(
        "--width",
        type=int,
        metavar="W",
        help="in pixels, a multiple of 8; both sides together at "
        "most 1024 x 1024 pixels and 4 to 1 [the model's own, or as I.png]",
    )
    add("--height", type=int, metavar="H", help="likewise [the model's own, or as I.png]")
    add(
        "--attention-maps",
        action="store_true",
        help="also write where each reference acted in each image: SEED-attention-1.png, ...",
    )
    add(
        "--out",
        type=Path,
        default=Path("outputs"),
        metavar="DIR",
        help="folder for the PNGs, named by seed; nothing is overwritten [outputs]",
    )
    add_model_options(parser.add_argument_group("model").add_argument)


def run(arguments: Arguments, load: Load) -> None:
    from PIL import Image

    from ipadapter_demo.cli.folder import draw
    from ipadapter_demo.cli.start import adapters_beside, recorded, start_of
    from ipadapter_demo.cli.translate import (
        completed,
        folder_among,
        free_path,
        given_fields,
        vae_is_named,
    )
    from ipadapter_demo.imaging import tinted
    from ipadapter_demo.record import Recording, save_png

    record, found = recorded(arguments.from_png)
    # read before the model is: a wrong path shows at once
    given = given_fields(arguments, record.request if record else None)
    at = folder_among(arguments.reference)
    if at is not None and arguments.attention_maps:
        raise RequestError("--attention-maps are of one reference picture, and not of a folder")
    if vae_is_named(arguments.vae):
        arguments.vae = None  # of the request, and not the model's own
    arguments.out.mkdir(parents=True, exist_ok=True)
    made_with = record.provenance.get("model") if record else None
    pipeline = loaded(arguments, load, made_with, adapters_beside(record))
    start = record.request if record else start_of(found, given, pipeline.info)
    request = completed(replace(start, **given), pipeline.info, arguments)
    if at is not None:
        return draw(pipeline, request, arguments.reference[at], arguments.out, at)
    # pictures too large for any output are said before they are drawn from
    save_png(BytesIO(), Image.new("RGB", (1, 1)), request, 0, 0, {})
    *_, result = pipeline.stream(request, record_attention=arguments.attention_maps)
    for note in result.warnings:
        print(note, file=sys.stderr)
    weights = result.provenance["weights"]
    if record and not _same_weights(record.provenance.get("weights"), weights):
        progress(
            f"{arguments.from_png} was made with other weights: it is not drawn the same again"
        )
    recording = Recording(result.request, result.provenance)
    for index, (image, seed) in enumerate(zip(result.images, result.seeds, strict=True)):
        with free_path(arguments.out, str(seed)) as path:
            recording.save(path, image, seed, index)
        maps = []
        shown = result.attention_maps[index] if result.attention_maps else ()
        for number, one in enumerate(shown, 1):
            with free_path(arguments.out, f"{path.stem}-attention-{number}") as place:
                tinted(image, one).save(place)
            maps.append(str(place))
        said = {"attention_maps": maps} if maps else {}
        print_line(path=str(path), seed=seed, seconds=round(result.seconds, 3), **said)


def _same_weights(before: object, now: object) -> bool:
    """Older records name fewer files."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return before is None or before == now
    return all(now.get(file) == sha256 for file, sha256 in before.items())


COMMAND = Command("make pictures", TEXT, add_options, run, EXAMPLES)
