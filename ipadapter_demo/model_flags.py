"""The flags of a model and of what is loaded with it, for `app.py` and the commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ipadapter_demo.load_options import DTYPES, PREDICTION_TYPES


def add_model_options(add: Callable[..., argparse.Action]) -> None:
    """`add` is a parser's `add_argument`."""
    add(
        "--model",
        metavar="NAME",
        help="of the catalogue, or 'NAME on BASE' for a base in DIR/bases [that of a PNG or "
        "bundle, else $IPADAPTER_MODEL, else tabletop]",
    )
    add(
        "--base",
        metavar="FOLDER_OR_ID",
        help="another base for a published model's adapter: a folder in diffusers' layout, a "
        ".safetensors checkpoint, or a repository on the hub [$IPADAPTER_BASE]",
    )
    add(
        "--model-adapter",
        metavar="FILE",
        help="an image adapter of your own for the model: a .safetensors, .bin or .pth file, or a "
        "folder as InvokeAI makes one [$IPADAPTER_MODEL_ADAPTER]",
    )
    add(
        "--adapters",
        metavar="NAMES",
        help="models of the catalogue, such as sd15-plus,sd15-plus-face, whose image adapters are "
        "loaded beside the model's, for references to name [$IPADAPTER_ADAPTERS]",
    )
    add(
        "--models-dir",
        metavar="DIR",
        help="folder that mirrors the hub, DIR/owner/repository/file, with bases, LoRAs and "
        "autoencoders of your own in DIR/bases, DIR/loras and DIR/vaes [$IPADAPTER_MODELS_DIR]",
    )
    add(
        "--image-encoder",
        metavar="PLACE",
        help="another image encoder for --model-adapter: a folder, or owner/name/folder on the hub "
        "[$IPADAPTER_IMAGE_ENCODER]",
    )
    add(
        "--unet",
        metavar="FILE",
        help="another UNet, such as one distilled to few steps: a .safetensors file in diffusers' "
        "layout [$IPADAPTER_UNET]",
    )
    add(
        "--vae",
        metavar="PLACE",
        help="another autoencoder: a folder or a file; in generate also the name of one in "
        "DIR/vaes [$IPADAPTER_VAE]",
    )
    add(
        "--controlnet",
        metavar="NAME=PLACE",
        action=_Repeated,
        help="a ControlNet for maps that --structure NAME=... names: a folder in diffusers' "
        "layout, or a file .safetensors or .pth; repeatable [$IPADAPTER_CONTROLNET]",
    )
    add(
        "--t2i-adapter",
        metavar="NAME=PLACE",
        action=_Repeated,
        help="a T2I-Adapter, likewise [$IPADAPTER_T2I_ADAPTER]",
    )
    add(
        "--lora",
        metavar="FILE[:WEIGHT]",
        action=_Repeated,
        help="a LoRA, LoCon, LoHa or LoKr, or the name of one of the model's, for requests that "
        "choose no others; repeatable, or with commas [$IPADAPTER_LORA]",
    )
    add(
        "--embedding",
        metavar="FILE",
        action=_Repeated,
        help="a textual inversion, called in prompts by the name of its file; repeatable, or with "
        "commas [$IPADAPTER_EMBEDDING]",
    )
    add(
        "--prediction-type",
        choices=PREDICTION_TYPES,
        help="of a checkpoint that does not say its own [$IPADAPTER_PREDICTION_TYPE]",
    )
    add(
        "--zero-snr",
        action=argparse.BooleanOptionalAction,
        help="the model was trained to zero terminal SNR and does not say so [$IPADAPTER_ZERO_SNR]",
    )
    add(
        "--offload",
        action=argparse.BooleanOptionalAction,
        help="for small GPUs: keep there only what is at work [$IPADAPTER_OFFLOAD]",
    )
    add(
        "--tiling",
        action=argparse.BooleanOptionalAction,
        help="decode large pictures in parts [$IPADAPTER_TILING]",
    )
    add(
        "--share-steps",
        type=int,
        metavar="N",
        help="requests that may share a call of the model, each within one grey level of itself "
        "alone in float32 [$IPADAPTER_SHARE_STEPS, else 8 on cuda, else 1]",
    )
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile the networks for pictures of the model's own size: minutes the first time, "
        "then faster, but for small models on a CPU; needs a C++ compiler [$IPADAPTER_COMPILE]",
    )
    add(
        "--device",
        help="cpu, cuda, cuda:1, mps [$IPADAPTER_DEVICE, else cuda if there is one, else mps]",
    )
    add(
        "--dtype",
        choices=DTYPES,
        help="of the weights [$IPADAPTER_DTYPE, else auto: half precision where the hardware has "
        "it and the model is not tiny]",
    )


class _Repeated(argparse.Action):
    """A flag that may be given several times: its values become the lines of one text."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, f"{before}\n{values}" if before else values)
