"""One model, or several of which one is loaded at a time, for many visitors."""

from __future__ import annotations

from ipadapter_demo.serving.line import Turn
from ipadapter_demo.serving.manager import ModelManager

__all__ = ["ModelManager", "Turn"]
