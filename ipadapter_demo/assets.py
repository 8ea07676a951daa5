"""The files beside the code: the built-in model, examples, the style sheet, configurations."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
# An installed package has the repository's folders inside, a checkout has them beside it.
_ROOT = _PACKAGE if (_PACKAGE / "assets").is_dir() else _PACKAGE.parent


def asset(path: str) -> Path:
    """A file or folder by its path in the repository, below "assets" or "configs"."""
    return _ROOT / path
