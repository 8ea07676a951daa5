"""Commands and their options, and the help that is worth reading.

An option that is not given is None: what it then stands for is known only with the model, or with
the PNG that a request comes from.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from ipadapter_demo.errors import RequestError
from ipadapter_demo.request import COMBINES, FITS, LAYER_PRESETS, SAMPLERS, structure_parts
from ipadapter_demo.settings import DTYPES, add_own_parts

Arguments = argparse.Namespace

PROGRAM = "python -m ipadapter_demo"
# Those of training/tabletop/recipes.py, which would import torch; a test compares them.
PARTS = (
    "vae",
    "clip",
    "image-encoder",
    "text-encoder",
    "base-small",
    "controlnet-small",
    "t2i-palette-small",
    "base",
    "image-adapter",
    "image-adapter-plus",
    "controlnet",
    "t2i-palette",
    "t2i-canny",
    "t2i-inpaint",
    "attribute-classifier",
)

# Those of claims/, likewise.
STUDIES = ("data", "methods", "tuning", "scale", "transfer", "structure", "plus")

# Options of a model, named as the settings they set.
MODEL_OPTIONS = (
    "model",
    "base",
    "model_adapter",
    "models_dir",
    "image_encoder",
    "vae",
    "controlnet",
    "t2i_adapter",
    "lora",
    "embedding",
    "prediction_type",
    "zero_snr",
    "device",
    "dtype",
)

GENERATE = """\
Make pictures from a picture, words, a structure, a mask, or all of them at once.

Writes PNGs that hold the whole request, and prints a JSON line for each: its path, its seed, and
the seconds the request took. Image i of --count starts from seed + i.
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
  an output made again, and with another seed
    {PROGRAM} generate --from-png outputs/7.png
    {PROGRAM} generate --from-png outputs/7.png --seed 8
"""
COMPARE = """\
Draw a comparison: rows, columns and pages of pictures that differ in what the spec names and in
nothing else. Writes them into a folder as they finish, then figures, numbers and bundle.zip.
A comparison that was stopped goes on where it was when the same command is given again.

--verify draws the cells of a bundle again and prints, for each, how far it is from the one in the
bundle, in grey levels: 0 on the same machine and versions, at most 1 in float32 on others.
"""
COMPARE_EXAMPLES = f"""\
a spec, in YAML or JSON; --schema prints all that it may hold:
  title: Three references and the strength of the image prompt
  request: {{prompt: on a green striped floor, steps: 20}}
  rows: {{reference: [red-sphere.png, blue-cone.png, checker-cube.png]}}
  columns: {{image_scale: 0:1:0.2}}
  pages: {{seed: [1, 2]}}
  beside: [reference]

examples:
  {PROGRAM} compare spec.yaml --out comparison
  {PROGRAM} compare spec.yaml --cost
  {PROGRAM} compare --verify comparison/bundle.zip
"""
MODELS = """\
List the catalogue: a JSON line for each model, with its licence, its size, the files it is made of
and whether they are at hand. Missing ones are fetched when a model is first used.
"""
RENDER = """\
Draw scenes of the tabletop world: NNNN.png, and scene.json with the caption and every attribute of
each. Equal seeds give equal scenes.
"""
EVALUATE = """\
Measure a model.

`evaluate` by itself takes the tabletop model and held-out scenes: how often what the text names,
what a reference carries and what a map fixes comes out right. Takes minutes.

`evaluate coco` takes any model and the paper's protocol: CLIP-I and CLIP-T of four samples for
every picture of a COCO captions file, shared among workers on this machine, or on the Ray cluster
that RAY_ADDRESS names. Stopped, it goes on where it was.
"""
EVALUATE_EXAMPLES = f"""\
examples:
  {PROGRAM} evaluate --out report.json --workers 2
  {PROGRAM} evaluate coco --model sd15 --images val2017 --captions captions_val2017.json \\
    --clip clip-vit-large-patch14 --out coco --workers 8 --gpus 1
"""
SHEETS = """\
Draw sheets of unselected held-out scenes with the tabletop model: the overview at the top of the
README, and one sheet for each thing the demo does.
"""
CLAIMS = """\
Measure what the paper claims, in miniature: its figures go into docs/claims.md, docs/claims/*.json
and *.png. The first five train methods on pictures of half the size, for hours, and resume.
  data       fidelity against steps, for 1 %, 10 % and all of the pictures
  methods    the image adapter beside other ways to give a picture to a model
  tuning     the same methods with other learning rates
  scale      λ from 0 to 1.5: the picture against the words
  transfer   the same adapter on a base fine-tuned to another look
  structure  with ControlNet and T2I-Adapters, alone and together
  plus       16 tokens against 4: fidelity against freedom
"""
TRAIN = """\
Train on your pictures: `image-adapter` or `structure` (a ControlNet or a T2I-Adapter) with --config
or --data; --help behind either lists all that a config may say.

Or train one part of the tabletop model, going on where an interrupted run stopped. Each needs those
before it, except that nothing needs the last.
"""
ABOUT = {
    "image-adapter": "of the tabletop model; with --config or --data, on your pictures",
    "structure": "a ControlNet or a T2I-Adapter, on your pictures",
}
TRAIN_EXAMPLES = f"""\
examples:
  {PROGRAM} train image-adapter --config configs/sd15.yaml --data shards/*.tar
  {PROGRAM} train structure --config configs/sd15-canny.yaml --resume
  {PROGRAM} train image-adapter
"""


def command_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Pictures as prompts: IP-Adapter on the command line."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, summary: str, text: str, examples: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=text,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    _add_generate(add("generate", "make pictures", GENERATE, EXAMPLES))
    _add_compare(add("compare", "draw a comparison", COMPARE, COMPARE_EXAMPLES))
    _add_models(add("models", "list the models there are", MODELS))
    _add_render(add("render", "draw scenes of the tabletop world, with their truth", RENDER))
    _add_evaluate(add("evaluate", "measure a model", EVALUATE, EVALUATE_EXAMPLES))
    _add_sheets(add("sheets", "draw sheets of examples", SHEETS))
    _add_claims(add("claims", "measure what the paper claims", CLAIMS))
    _add_train(add("train", "train on your pictures, or the tabletop model", TRAIN, TRAIN_EXAMPLES))
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    window: dict[str, Any] = {"nargs": 2, "type": float, "metavar": ("START", "END")}
    add = parser.add_argument_group("what to make").add_argument
    add(
        "--reference",
        type=Path,
        action="append",
        metavar="R.png",
        help="a picture as a prompt; repeat it to mix several",
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
        type=_optional_path,
        action="append",
        metavar="M.png",
        help="white where a reference has a say; once for each, - for everywhere",
    )
    add(
        "--reference-window",
        **window,
        action="append",
        help="the part of the steps in which a reference acts; once for all, or once for each",
    )
    add(
        "--reference-only",
        type=int,
        action="append",
        metavar="N",
        help="the one picture of --count, from 0, that a reference is for; once for each",
    )
    add(
        "--combine",
        choices=COMBINES,
        help="several references side by side, or as their mean [concat]",
    )
    add(
        "--negative-reference",
        type=Path,
        action="append",
        metavar="R.png",
        help="a picture to move away from",
    )
    add(
        "--fit",
        choices=FITS,
        action="append",
        help="how a reference that is not square is made so; once for all, or once for each [crop]",
    )
    add(
        "--scale",
        dest="image_scale",
        type=float,
        metavar="λ",
        help="strength of the references, 0 to 2 [the model's: tabletop 1, beside a "
        "prompt 0.65, beside a structure 0.75]",
    )
    add(
        "--scale-window",
        dest="image_window",
        **window,
        help="the part of the steps in which they act, in fractions [0 1]",
    )
    add(
        "--layers",
        dest="image_layers",
        type=_layers,
        metavar="LAYERS",
        help="where the references act: all, style, layout, style+layout, or a factor for each "
        "cross-attention layer, as 1,0.5,... [all]",
    )
    add(
        "--adapter",
        metavar="NAME",
        help="which of the model's image adapters reads the references [the model's first]",
    )
    add("--prompt", metavar="TEXT", help="what the picture shows, in words")
    add("--negative-prompt", metavar="TEXT", help="what it should not show")
    add(
        "--structure",
        type=_structure,
        action="append",
        metavar="KIND[:ANNOTATOR]=C.png",
        help="hold the picture to the edges or colours of another: canny=C.png, "
        "canny:lineart=C.png, or canny:none=map.png for a ready map; repeatable. KIND is one of "
        "the model's (tabletop: canny, palette, t2i-canny), ANNOTATOR by default the first of the "
        "kind's",
    )
    add(
        "--structure-weight",
        type=float,
        action="append",
        metavar="W",
        help="once for all structures, or once for each, 0 to 2 [1]",
    )
    add(
        "--structure-fit",
        choices=FITS,
        action="append",
        help="how a picture of other proportions than the output is brought to them; once for all "
        "structures, or once for each [crop]",
    )
    add("--structure-window", **window, help="the part of the steps in which they act [0 1]")
    add("--inpaint", type=Path, metavar="I.png", help="a picture to replace a part of")
    add("--mask", type=Path, metavar="M.png", help="which part: the white one, as large as I.png")
    add("--feather", type=int, metavar="PIXELS", help="softens the seam, inwards [2]")
    add(
        "--repaint-passes",
        type=int,
        metavar="N",
        help="how often every step is taken, 1 to 10, for a seam that does not show "
        "[the model's: tabletop 4]",
    )
    add(
        "--context",
        type=float,
        metavar="C",
        help="how much of I.png the model sees, from 0, only the mask enlarged, to 1, all "
        "[the model's: 1]",
    )
    add(
        "--background-weight",
        type=float,
        metavar="W",
        help="weight of I.png as an image prompt around the mask, to which references then keep "
        "[the model's: tabletop 1]",
    )
    add("--init", type=Path, metavar="I.png", help="a picture to start from instead of noise")
    add(
        "--strength",
        type=float,
        metavar="S",
        help="how much of I.png to forget, up to 1 [with --inpaint 1, with --init 0.6]",
    )
    add(
        "--from-png",
        type=Path,
        metavar="P.png",
        help="the request inside an output PNG; other options replace parts of it",
    )

    add = parser.add_argument_group("how").add_argument
    add(
        "--guidance",
        type=float,
        metavar="G",
        help="how closely to follow all this, 1 to 30 [the model's: tabletop 6]",
    )
    add(
        "--guidance-rescale",
        type=float,
        metavar="R",
        help="0 to 1, against overexposure by guidance; 0.7 suits v-prediction [0]",
    )
    add("--steps", type=int, metavar="N", help="denoising steps [the model's: tabletop 20]")
    add("--sampler", choices=SAMPLERS, help="[dpm++]")
    add("--seed", type=int, metavar="N", help="where the noise comes from [0]")
    add("--count", type=int, metavar="N", help="how many pictures [1]")
    add(
        "--width",
        type=int,
        metavar="W",
        help="in pixels, a multiple of 8; both sides together at "
        "most 1024 x 1024 pixels and 4 to 1 [the model's own, or as I.png]",
    )
    add("--height", type=int, metavar="H", help="likewise [the model's own, or as I.png]")
    add(
        "--out",
        type=Path,
        default=Path("outputs"),
        metavar="DIR",
        help="folder for the PNGs, named by seed; nothing is overwritten [outputs]",
    )
    _add_model(parser)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "spec",
        type=Path,
        nargs="?",
        metavar="SPEC",
        help="a spec, .yaml or .json; the files that it names lie beside it",
    )
    add(
        "--out",
        type=Path,
        default=Path("comparison"),
        metavar="DIR",
        help="folder for all of it [comparison]",
    )
    add("--batch", type=_positive, metavar="N", help="cells drawn at once, at most [4]")
    add(
        "--clip",
        type=Path,
        metavar="FOLDER",
        help="a CLIP model in transformers' layout to score with [the model's own]",
    )
    add("--cost", action="store_true", help="only say what it would cost")
    add("--schema", action="store_true", help="only print the JSON schema of a spec")
    add(
        "--verify",
        type=Path,
        metavar="BUNDLE",
        help="a bundle to draw again, the zip or its unpacked folder",
    )
    _add_model(parser)


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models-dir", metavar="DIR", help="folder that mirrors the hub [$IPADAPTER_MODELS_DIR]"
    )


def _add_render(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--count", type=_positive, default=16, metavar="N", help="how many scenes [16]")
    add("--seed", type=int, default=0, metavar="N", help="which scenes [0]")
    add("--size", type=_positive, default=128, metavar="N", help="pixels a side [128]")
    add(
        "--maps",
        action="store_true",
        help="also NNNN-edges.png, NNNN-depth.png (16 bits, thousandths of a world unit from the "
        "camera) and NNNN-mask-1.png, -2.png: a solid each, from left to right",
    )
    add(
        "--shards",
        action="store_true",
        help="webdataset shards to train on instead, NNNNN.tar: 1,024 pictures each, with captions "
        "as poor as those of the web",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="folder for all of it")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "protocol",
        nargs="?",
        choices=("tabletop", "coco"),
        default="tabletop",
        metavar="tabletop|coco",
        help="which of the two [tabletop]",
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="PATH",
        help="the report.json to write; for coco a folder for it and for what is finished",
    )
    add(
        "--seed",
        type=int,
        metavar="N",
        help="which scenes, of which recipes learn from none from "
        "900001 on [900001]; for coco of the first sample [0]",
    )
    add(
        "--workers",
        type=_positive,
        default=1,
        metavar="N",
        help="processes that draw, with one thread each if there are several [1]",
    )
    add("--scenes", type=_positive, default=200, metavar="N", help="more are surer [200]")
    add(
        "--keep",
        type=Path,
        metavar="DIR",
        help="a folder for every picture that is drawn: those "
        "that are there are not drawn again, so a stopped evaluation goes on",
    )
    add = parser.add_argument_group("coco").add_argument
    add("--images", type=Path, metavar="DIR", help="folder of the pictures")
    add("--captions", type=Path, metavar="FILE", help="their captions, in COCO's JSON")
    add(
        "--clip",
        type=Path,
        metavar="FOLDER",
        help="a CLIP model in transformers' layout; the paper's is ViT-L/14",
    )
    add("--limit", type=_positive, default=5000, metavar="N", help="the first pictures [5000]")
    add("--samples", type=_positive, default=4, metavar="N", help="of each picture [4]")
    add("--steps", type=_positive, default=50, metavar="N", help="of the sampler [50]")
    add("--guidance", type=float, default=7.5, metavar="W", help="[7.5]")
    add("--sampler", choices=SAMPLERS, default="ddim", help="[ddim]")
    add("--gpus", type=float, default=0.0, metavar="X", help="a worker's share of them [0]")
    _add_model(parser)


def _add_sheets(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        default=Path("assets/figures"),
        metavar="DIR",
        help="folder for the PNGs [assets/figures]",
    )
    _add_model(parser)


def _add_claims(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("study", choices=STUDIES, metavar="STUDY", help="one of the above")
    add(
        "--runs",
        type=Path,
        default=Path("runs/claims"),
        metavar="DIR",
        help="folder for rendered pictures and trainings [runs/claims]",
    )
    add("--docs", type=Path, default=Path("docs"), metavar="DIR", help="where claims.md is [docs]")
    add(
        "--workers",
        type=_positive,
        default=1,
        metavar="N",
        help="processes that draw with the shipped model [1]",
    )
    add("--dtype", choices=DTYPES, default="auto", help="in which it draws [auto]")


def _add_train(parser: argparse.ArgumentParser) -> None:
    from ipadapter_demo.training.config import ImageAdapterConfig, StructureConfig, add_fields

    parts = parser.add_subparsers(
        dest="part", required=True, metavar="PART", help="what to train; PART --help says more"
    )
    configs = {"image-adapter": ImageAdapterConfig, "structure": StructureConfig}
    for part in (*PARTS, "structure"):
        about = ABOUT.get(part, "of the tabletop model")
        own = parts.add_parser(part, help=about, description=about)
        add = own.add_argument
        add("--threads", type=_positive, metavar="N", help="of the CPU [torch's default]")
        if part != "structure":
            add(
                "--runs",
                type=Path,
                default=Path("runs"),
                metavar="DIR",
                help="folder for checkpoints, previews and rendered pictures [runs]",
            )
            add("--pictures", type=_positive, metavar="N", help="to render and train on [32768]")
        if part in configs:
            add_fields(own, configs[part])
        else:
            add("--out", type=Path, metavar="DIR", help="the model's folder [assets/tabletop]")
            add("--steps", type=_positive, metavar="N", help="[the recipe's own]")
            add("--device", help="cpu, cuda, ... [cuda if there is one, else mps, else cpu]")


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add(
        "--model",
        metavar="NAME",
        help="of the catalogue [what made --from-png, else $IPADAPTER_MODEL, else tabletop]",
    )
    add(
        "--base",
        metavar="FOLDER_OR_ID",
        help="another base for a published model's adapter: a "
        "folder, a .safetensors checkpoint or a repository on the hub [$IPADAPTER_BASE]",
    )
    add(
        "--model-adapter",
        metavar="FILE",
        help="an image adapter of your own for the model [$IPADAPTER_MODEL_ADAPTER]",
    )
    add("--models-dir", metavar="DIR", help="folder that mirrors the hub [$IPADAPTER_MODELS_DIR]")
    add_own_parts(add)
    add(
        "--prediction-type",
        choices=("epsilon", "v_prediction"),
        help="of a checkpoint that does not say its own [$IPADAPTER_PREDICTION_TYPE]",
    )
    add(
        "--zero-snr",
        action="store_true",
        help="the model was trained to zero terminal SNR and does not say so [$IPADAPTER_ZERO_SNR]",
    )
    add(
        "--device",
        help="cpu, cuda, cuda:1, mps [$IPADAPTER_DEVICE, else cuda if there is one, else mps]",
    )
    add(
        "--dtype",
        choices=DTYPES,
        help="of the weights [$IPADAPTER_DTYPE, else auto: half "
        "precision where the hardware has it and the model is not tiny]",
    )


def _optional_path(text: str) -> Path | None:
    return None if text == "-" else Path(text)


def _layers(text: str) -> str | tuple[float, ...]:
    if text in LAYER_PRESETS:
        return text
    try:
        return tuple(float(factor) for factor in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be one of {', '.join(LAYER_PRESETS)}, or numbers with commas, got {text!r}"
        ) from None


def _structure(text: str) -> tuple[str, str, Path]:
    try:
        kind, annotator, file = structure_parts(text)
    except RequestError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("structure ")) from None
    return kind, annotator or "", Path(file)


def _positive(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)
