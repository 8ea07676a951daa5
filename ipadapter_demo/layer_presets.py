"""The names of what an image prompt may give: presets of the layers in which it acts."""

from __future__ import annotations

from typing import Literal, get_args

from ipadapter_demo import checks
from ipadapter_demo.errors import RequestError

LayerPreset = Literal[
    "all",
    "style",
    "layout",
    "style+layout",
    "strong style",
    "precise style",
    "composition",
    "ease in",
    "ease out",
    "ease in-out",
    "weak input",
    "weak middle",
    "weak output",
    "strong middle",
]
LAYER_PRESETS: tuple[LayerPreset, ...] = get_args(LayerPreset)
MAX_LAYERS, MAX_FACTOR = 200, 2.0
_ALSO: dict[str, LayerPreset] = {"linear": "all"}  # as ComfyUI_IPAdapter_plus calls it


def checked_layers(field: str, value: object) -> LayerPreset | tuple[float, ...]:
    """Raises RequestError for anything but a preset, or a factor for each layer."""
    if isinstance(value, str):
        preset = _ALSO.get(value, value)
        checks.one_of(field, preset, LAYER_PRESETS)
        return preset  # type: ignore[return-value]
    if not isinstance(value, (tuple, list)) or not 0 < len(value) <= MAX_LAYERS:
        raise RequestError(
            f"{field} must be one of {', '.join(LAYER_PRESETS)}, or a number for "
            f"each cross-attention layer, got {value!r:.80}"
        )
    return tuple(checks.number(field, factor, 0.0, MAX_FACTOR) for factor in value)
