"""The cross-attention layers that an image prompt acts in: presets for style and layout.

Measured on SDXL by InstantStyle (arXiv 2404.02733, section 3.3): one transformer carries the style,
one the layout. For SD 1.5 its authors name whole blocks and call them experimental:
https://github.com/instantX-research/InstantStyle/blob/153ef9b/infer_style_sd15.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipadapter_demo.adapter import cross_attention_layers
from ipadapter_demo.errors import RequestError
from ipadapter_demo.request import LayerPreset

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

# number of cross-attention layers -> the names that layers of a preset begin with
_STYLE: dict[int, tuple[str, ...]] = {16: ("up_blocks.1.",), 70: ("up_blocks.0.attentions.1.",)}
_LAYOUT: dict[int, tuple[str, ...]] = {
    16: ("down_blocks.2.", "mid_block."),
    70: ("down_blocks.2.attentions.1.",),
}


def has_presets(unet: UNet2DConditionModel) -> bool:
    return len(cross_attention_layers(unet)) in _STYLE


def layer_factors(
    wanted: LayerPreset | tuple[float, ...], unet: UNet2DConditionModel, model: str
) -> tuple[float, ...] | None:
    """A factor of λ for each cross-attention layer, or None where it is 1 in all of them.

    Raises RequestError for a preset of another architecture, or another number of layers.
    """
    if wanted == "all":
        return None
    names = list(cross_attention_layers(unet))
    if isinstance(wanted, tuple):
        if len(wanted) != len(names):
            raise RequestError(
                f"image_layers must have a number for each of the {len(names)} "
                f"cross-attention layers of {model}, got {len(wanted)}"
            )
        return wanted
    if len(names) not in _STYLE:
        raise RequestError(
            f"image_layers {wanted!r} is known for SD 1.5 and SDXL only; {model} "
            f"takes all, or a number for each of its {len(names)} layers"
        )
    kept: tuple[str, ...] = ()
    kept += _STYLE[len(names)] if "style" in wanted else ()
    kept += _LAYOUT[len(names)] if "layout" in wanted else ()
    return tuple(float(name.startswith(kept)) for name in names)
