"""The `embeds` command."""

from __future__ import annotations

import argparse
from pathlib import Path

from ipadapter_demo.cli.command import PROGRAM, Arguments, Command, Load, print_line
from ipadapter_demo.cli.references import given
from ipadapter_demo.embeds import ENDING, average_embeds, is_embeds, save_embeds
from ipadapter_demo.errors import RequestError
from ipadapter_demo.fit import REFERENCE_FITS
from ipadapter_demo.model_flags import add_model_options
from ipadapter_demo.request import Reference

TEXT = f"""\
Save what the model's image encoder makes of a picture, to be used in its place: as a reference of
`generate`, on the page, over HTTP and in comparisons. Of several pictures the mean is saved, and
files of embeds may be among them. The {ENDING} file says what made it.
"""

EXAMPLES = f"""\
examples:
  {PROGRAM} embeds R.png --out R.safetensors
  {PROGRAM} embeds A.png B.png C.png --adapter plus --out mean.safetensors
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("pictures", type=Path, nargs="+", metavar="R.png", help="pictures, or files of embeds")
    add("--out", type=Path, required=True, metavar=f"FILE{ENDING}", help="where to save them")
    add("--adapter", metavar="NAME", help="which image adapter is to read them [the model's first]")
    add(
        "--fit",
        choices=REFERENCE_FITS,
        default="crop",
        help="how a picture that is not square is made so, tile: read as up to 4 squares [crop]",
    )
    add(
        "--reference-clip-mask",
        type=Path,
        metavar="M.png",
        help="as large as the picture, and black where the image encoder is not to see it",
    )
    add(
        "--face",
        type=int,
        default=0,
        metavar="N",
        help="which face of a picture a FaceID adapter reads, 1 is the leftmost [0, the largest]",
    )
    add_model_options(parser.add_argument_group("model").add_argument)


def run(arguments: Arguments, load: Load) -> None:
    from ipadapter_demo.cli.model import loaded

    if not is_embeds(arguments.out):
        raise RequestError(f"--out must end in {ENDING}, got {arguments.out}")
    references = [
        Reference(
            **given(path, "embeds", arguments.reference_clip_mask),
            fit=arguments.fit,
            face=0 if is_embeds(path) else arguments.face,
        )
        for path in arguments.pictures
    ]
    pipeline = loaded(arguments, load)
    found = [
        reference.embeds or pipeline.embeds_of(reference, arguments.adapter).named(path.name)
        for path, reference in zip(arguments.pictures, references, strict=True)
    ]
    embeds = found[0] if len(found) == 1 else average_embeds(found)
    save_embeds(arguments.out, embeds)
    print_line(path=str(arguments.out), shape=embeds.shape, encoder=embeds.encoder)


COMMAND = Command("save what the image encoder makes of pictures", TEXT, add_options, run, EXAMPLES)
