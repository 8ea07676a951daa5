"""Checkpoints of adapters, read strictly and written so that diffusers loads them.

A published `.safetensors` is flat: `image_proj.<key>`, `ip_adapter.<n>.to_k_ip.weight`, ...; a
`.bin` nests the same tensors under "image_proj" and "ip_adapter". n is 1, 3, 5, ...: the index of
the layer in `unet.attn_processors`, where every other layer is a cross-attention. Other layouts are
read by `formats`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from ipadapter_demo.adapter.attach import layer_mismatch
from ipadapter_demo.adapter.attention_lora import lora_by_layer, without_lora
from ipadapter_demo.adapter.formats import SECTIONS, adapter_file, read_tensors
from ipadapter_demo.adapter.image_adapter import ImageAdapter
from ipadapter_demo.adapter.projections import projection_from_shapes
from ipadapter_demo.adapter.shapes import Shapes
from ipadapter_demo.errors import CheckpointError
from ipadapter_demo.files import whole_file

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

_BASES = {(768, 16): "SD 1.5", (2048, 70): "SDXL"}  # by token width and number of layers


def load_image_adapter(path: str | os.PathLike[str]) -> ImageAdapter:
    """Read a published or own checkpoint, in the precision it was stored in.

    A file of any layout that `formats` knows, or InvokeAI's folder with one in it. Variant, sizes
    and layers come from the tensors. Raises CheckpointError naming the file and what is wrong with
    it, or what it is instead.
    """
    path = adapter_file(Path(path))
    tensors, lora = without_lora(read_tensors(path))
    adapter = adapter_like(tensors, path)
    own_keys = {_published_key(key): key for key in adapter.state_dict()}
    adapter.load_state_dict({own_keys[k]: t for k, t in tensors.items()}, assign=True)
    adapter.lora = lora
    return adapter


def adapter_like(tensors: Mapping[str, Tensor], path: Path) -> ImageAdapter:
    """An adapter of the variant and sizes of `tensors`, under their published names, on the meta
    device. Raises CheckpointError, naming `path`, unless they are its weights one for one."""
    shapes = Shapes(tensors, path.name)
    with torch.device("meta"):  # shapes only, which costs nothing
        adapter = ImageAdapter(projection_from_shapes(shapes), _layer_widths(shapes))
    expected = _published_state(adapter)
    _require_same_keys(expected, tensors, path)
    for key, tensor in expected.items():
        if not tensors[key].is_floating_point():
            raise CheckpointError(f"{path.name}: {key} holds {tensors[key].dtype}, not floats")
        if tensor.shape != tensors[key].shape:
            raise CheckpointError(
                f"{path.name}: {key} has shape {tuple(tensors[key].shape)}, "
                f"next to the other tensors it must be {tuple(tensor.shape)}"
            )
    return adapter


def save_image_adapter(
    adapter: ImageAdapter, path: str | os.PathLike[str], dtype: torch.dtype | None = None
) -> None:
    """Write `adapter` in the layout that the suffix of `path` names, whole or not at all.

    diffusers reads linear files of 4 tokens and Plus files of depth 4; this project reads any.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".bin"):
        raise CheckpointError(f"{path.name}: the name must end in .safetensors or .bin")
    if lost := adapter.projection.lost_in_checkpoint(path.name):
        raise CheckpointError(f"{path.name}: {lost}")
    tensors = {
        key: tensor.detach().to("cpu", dtype).contiguous()
        for key, tensor in (_published_state(adapter) | adapter.lora).items()
    }
    with whole_file(path) as unfinished:
        if path.suffix == ".safetensors":
            unfinished.touch()
            mode = unfinished.stat().st_mode
            save_file(tensors, unfinished, metadata={"format": "pt"})
            unfinished.chmod(mode)  # safetensors keeps its files from everybody else
        else:
            torch.save({section: _section(tensors, section) for section in SECTIONS}, unfinished)


def check_fits(
    adapter: ImageAdapter,
    unet: UNet2DConditionModel,
    encoder_width: int,
    name: str | os.PathLike[str],
) -> None:
    """Raise CheckpointError unless the adapter from file `name` suits this UNet and encoder.

    `encoder_width` is what `adapter.width_read_from(encoder)` says of the encoder at hand.
    """
    name = Path(name).name
    if mismatch := layer_mismatch(unet, adapter):
        base = _BASES.get((adapter.cross_dim, len(adapter.layers)), "another base model")
        raise CheckpointError(
            f"{name} does not fit this base model: {mismatch}; it was made for {base} and needs "
            f"{encoder_needed(adapter)}"
        )
    try:
        lora_by_layer(adapter.lora, unet)
    except ValueError as error:
        raise CheckpointError(f"{name} does not fit this base model: {error}") from error
    if encoder_width != adapter.encoder_width:
        raise CheckpointError(
            f"{name} does not fit this image encoder: it reads {adapter.encoder_width} channels, "
            f"the encoder gives {encoder_width}; it needs {encoder_needed(adapter)}"
        )


def encoder_needed(adapter: ImageAdapter) -> str:
    """The image encoder an adapter was trained with, as far as its input width tells."""
    width = adapter.encoder_width
    return adapter.projection.encoders.get(width, f"an encoder of width {width}")


def _published_key(own_key: str) -> str:
    """A key of `ImageAdapter.state_dict()` -> its flat published name."""
    module, rest = own_key.split(".", 1)
    if module == "projection":
        return f"image_proj.{rest}"
    index, rest = rest.split(".", 1)
    return f"ip_adapter.{2 * int(index) + 1}.{rest}"


def _published_state(adapter: ImageAdapter) -> dict[str, Tensor]:
    return {_published_key(key): tensor for key, tensor in adapter.state_dict().items()}


def _section(tensors: Mapping[str, Tensor], section: str) -> dict[str, Tensor]:
    prefix = f"{section}."
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _layer_widths(shapes: Shapes) -> list[int]:
    numbers = shapes.numbers(r"ip_adapter\.(\d+)\.to_[kv]_ip\.weight$")
    if numbers != list(range(1, 2 * len(numbers), 2)):
        raise shapes.error(f"layers must be numbered 1, 3, 5, ... without a gap, got {numbers}")
    return [shapes.of(f"ip_adapter.{n}.to_k_ip.weight", 2)[0] for n in numbers]


def _require_same_keys(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path
) -> None:
    missing = [key for key in expected if key not in tensors]
    extra = [key for key in tensors if key not in expected]
    if missing or extra:
        raise CheckpointError(f"{path.name}: missing {missing[:3]}, unexpected {extra[:3]}")
