"""JSON files of models, as people have them: damaged ones included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.weights import reason


def json_object(path: Path) -> dict[str, Any]:
    """What a file says, by name. Raises ModelError, which names the file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {reason(error)}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} must hold an object with names, got a {type(found).__name__}")
    return found
