"""JSON that another program wrote."""

from __future__ import annotations

import json
from typing import Any

from ipadapter_demo.record import check_values

MAX_VALUES = 200_000  # about: see check_values


def object_from_text(text: str) -> dict[str, Any] | None:
    """None for what is no JSON object. Raises RequestError for one of too many values."""
    if not text.lstrip().startswith("{"):
        return None
    check_values("text in a PNG", text, MAX_VALUES)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
