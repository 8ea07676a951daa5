"""The cross-attention layers that an image prompt acts in: presets, as curves over the transformers
of a UNet, in the order in which a step passes them.

Style and layout were measured on SDXL by InstantStyle (arXiv 2404.02733, section 3.3): one
transformer carries the style, one the layout. For SD 1.5 its authors name whole blocks and call
them experimental:
https://github.com/instantX-research/InstantStyle/blob/153ef9b/infer_style_sd15.py
All others are the weight types of ComfyUI_IPAdapter_plus, by its formulas:
https://github.com/cubiq/ComfyUI_IPAdapter_plus/blob/main/IPAdapterPlus.py
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from ipadapter_demo.adapter import cross_attention_layers
from ipadapter_demo.errors import RequestError
from ipadapter_demo.layer_presets import LAYER_PRESETS, LayerPreset

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

# A factor of λ for each transformer, in the order of a step; below 0 it acts, as strongly as it is
# large, in the unconditional half of guidance instead.
Curve = tuple[float, ...]
SD15, SDXL = 16, 70  # numbers of cross-attention layers, in 16 and 11 transformers
_BLOCKS = ("down", "mid", "up")
_WEAK = 0.2

# transformers that carry something
_STYLE: dict[int, Collection[int]] = {SD15: (7, 8, 9), SDXL: (6,)}
_LAYOUT: dict[int, Collection[int]] = {SD15: (4, 5, 6), SDXL: (3,)}
_COMPOSITION: dict[int, dict[int, float]] = {SD15: {4: 0.25, 5: 1.0}, SDXL: {3: 1.0}}
_PRECISE: dict[int, Collection[int]] = {SD15: (0, 1, 2, 3, *range(9, 16)), SDXL: (6,)}


def curves_of(unet: UNet2DConditionModel) -> dict[LayerPreset, Curve]:
    """Of all presets that there are for a UNet."""
    blocks = [name.split("_", 1)[0] for name in _transformers(unet)]
    count, layers = len(blocks), len(cross_attention_layers(unet))

    def curve(factor: Callable[[int], float]) -> Curve:
        return tuple(float(factor(t)) for t in range(count))

    def weak(*where: str) -> Curve:
        return curve(lambda t: _WEAK if blocks[t] in where else 1.0)

    half = count / 2
    found: dict[LayerPreset, Curve] = {
        "all": curve(lambda t: 1.0),
        "ease in": curve(lambda t: 0.05 + 0.95 * (1 - t / count)),
        "ease out": curve(lambda t: 0.05 + 0.95 * (t / count)),
        "ease in-out": curve(lambda t: 0.05 + 0.95 * (1 - abs(t - half) / half)),
        "weak input": weak("down"),
        "weak middle": weak("mid"),
        "weak output": weak("up"),
        "strong middle": weak("down", "up"),
    }
    if layers in _STYLE:
        style, layout, composition = _STYLE[layers], _LAYOUT[layers], _COMPOSITION[layers]
        precise = _PRECISE[layers]
        found |= {
            "style": curve(lambda t: t in style),
            "layout": curve(lambda t: t in layout),
            "style+layout": curve(lambda t: t in style or t in layout),
            "strong style": curve(lambda t: t not in composition),
            "precise style": curve(lambda t: (t in precise) - composition.get(t, 0.0)),
            "composition": curve(lambda t: composition.get(t, 0.0)),
        }
    return {name: found[name] for name in LAYER_PRESETS if name in found}


def layer_factors(
    wanted: LayerPreset | tuple[float, ...],
    unet: UNet2DConditionModel,
    model: str,
    field: str = "image_layers",
) -> Curve | None:
    """A factor of λ for each cross-attention layer, or None where it is 1 in all of them; below 0
    as in a Curve.

    Raises RequestError for a preset of another architecture, or another number of layers, of the
    request's `field`.
    """
    if wanted == "all":
        return None
    names = list(cross_attention_layers(unet))
    if isinstance(wanted, tuple):
        if len(wanted) != len(names):
            raise RequestError(
                f"{field} must have a number for each of the {len(names)} "
                f"cross-attention layers of {model}, got {len(wanted)}"
            )
        return wanted
    curves = curves_of(unet)
    if wanted not in curves:
        raise RequestError(
            f"{field} {wanted!r} is known for SD 1.5 and SDXL only; {model} takes "
            f"{', '.join(curves)}, or a number for each of its {len(names)} layers"
        )
    by_name = dict(zip(_transformers(unet), curves[wanted], strict=True))
    return tuple(by_name[_transformer(name)] for name in names)


def _transformers(unet: UNet2DConditionModel) -> list[str]:
    """Names, in the order of a step; those of layers have the middle last."""
    found = dict.fromkeys(map(_transformer, cross_attention_layers(unet)))
    return sorted(found, key=lambda name: _BLOCKS.index(name.split("_", 1)[0]))


def _transformer(layer: str) -> str:
    return layer.split(".transformer_blocks.", 1)[0]
