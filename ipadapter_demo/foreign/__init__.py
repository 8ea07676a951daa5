"""Settings in the PNGs of other programs, A1111, ComfyUI and InvokeAI, as far as they have the same
meaning here; the rest is said in words. Reading trusts nothing: texts and graphs are bounded."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from ipadapter_demo.foreign import a1111, comfyui, invokeai
from ipadapter_demo.foreign.settings import ForeignSettings
from ipadapter_demo.imaging import read_bytes
from ipadapter_demo.png_text import texts_of_others
from ipadapter_demo.record import KEYWORD, MAX_PNG_BYTES

__all__ = ["ForeignSettings", "settings_from_png"]

MAX_TEXT = 4 * 2**20  # bytes of all texts of a file
READERS = {
    "invokeai_metadata": invokeai.settings,
    "parameters": a1111.settings,  # before ComfyUI's: programs built on that write both
    "prompt": comfyui.settings,
}


def settings_from_png(source: Path | str | bytes | BinaryIO) -> ForeignSettings | None:
    """What another program wrote into its PNG; None for a file of this program, or of none that is
    known. Raises RequestError for a file that is damaged, or has too much text."""
    content = read_bytes(source, "PNG", MAX_PNG_BYTES)
    texts = texts_of_others(content, {KEYWORD, *READERS}, MAX_TEXT)
    if KEYWORD in texts:
        return None
    found = (reader(texts[name]) for name, reader in READERS.items() if name in texts)
    return next((settings for settings in found if settings is not None), None)
