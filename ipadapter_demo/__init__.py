"""Generate images from a reference picture: a demo of IP-Adapter (arXiv 2308.06721).

    import ipadapter_demo as ip

    pipeline = ip.load("tabletop")
    request = ip.GenerateRequest(references=(ip.Reference(image=picture),), image_scale=0.8)
    result = pipeline.generate(request)

Everything listed in `__all__` is public. Nothing heavy is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipadapter_demo.compare import draw_comparison
    from ipadapter_demo.embeds import ImageEmbeds, average_embeds, read_embeds, save_embeds
    from ipadapter_demo.errors import CheckpointError, DemoError, ModelError, RequestError
    from ipadapter_demo.folders import draw_folder
    from ipadapter_demo.foreign import ForeignSettings, settings_from_png
    from ipadapter_demo.load_options import LoadOptions
    from ipadapter_demo.lora import Lora
    from ipadapter_demo.outpainting import outpaint
    from ipadapter_demo.pipeline import ImagePromptPipeline, ModelInfo, Preview, Result, load
    from ipadapter_demo.record import (
        Record,
        record_from_png,
        request_from_json,
        request_from_png,
        request_to_json,
        save_png,
    )
    from ipadapter_demo.request import GenerateRequest, Inpaint, Reference, Structure
    from ipadapter_demo.upscale import Upscale

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "DemoError",
    "ForeignSettings",
    "GenerateRequest",
    "ImageEmbeds",
    "ImagePromptPipeline",
    "Inpaint",
    "LoadOptions",
    "Lora",
    "ModelError",
    "ModelInfo",
    "Preview",
    "Record",
    "Reference",
    "RequestError",
    "Result",
    "Structure",
    "Upscale",
    "average_embeds",
    "draw_comparison",
    "draw_folder",
    "load",
    "outpaint",
    "read_embeds",
    "record_from_png",
    "request_from_json",
    "request_from_png",
    "request_to_json",
    "save_embeds",
    "save_png",
    "settings_from_png",
]

_HOMES = {
    "compare": ("draw_comparison",),
    "embeds": ("ImageEmbeds", "average_embeds", "read_embeds", "save_embeds"),
    "errors": ("CheckpointError", "DemoError", "ModelError", "RequestError"),
    "folders": ("draw_folder",),
    "foreign": ("ForeignSettings", "settings_from_png"),
    "load_options": ("LoadOptions",),
    "lora": ("Lora",),
    "outpainting": ("outpaint",),
    "pipeline": ("ImagePromptPipeline", "ModelInfo", "Preview", "Result", "load"),
    "record": (
        "Record",
        "record_from_png",
        "request_from_json",
        "request_from_png",
        "request_to_json",
        "save_png",
    ),
    "request": ("GenerateRequest", "Inpaint", "Reference", "Structure"),
    "upscale": ("Upscale",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
