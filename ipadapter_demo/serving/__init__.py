"""One model, or several of which one is loaded at a time, for many visitors."""

from __future__ import annotations

from ipadapter_demo.serving.limits import Limits
from ipadapter_demo.serving.line import Turn
from ipadapter_demo.serving.manager import ModelManager
from ipadapter_demo.serving.visitors import Visitor

__all__ = ["Limits", "ModelManager", "Turn", "Visitor"]
