"""Requests, read with one model: prompts, references and structure maps."""

from ipadapter_demo.pipeline.cache import ContentCache
from ipadapter_demo.pipeline.conditioning.conditioner import Conditioner

__all__ = ["Conditioner", "ContentCache"]
