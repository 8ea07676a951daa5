"""Files of one's own as a setting names them, several in one text."""

from __future__ import annotations

import math
import re
from pathlib import Path

from ipadapter_demo.errors import RequestError


def loras(text: str) -> tuple[tuple[Path, float], ...]:
    """Files and weights of "style.safetensors:0.8, other.safetensors"; a line may also be the name
    of a LoRA that the model has. Raises ValueError."""
    found = []
    for item in _listed(text, _LORA):
        match = _LORA_OR_NAME.fullmatch(item)
        given = [] if match is None else [n for n in (match[2], match[4]) if n is not None]
        number = given[0] if given else "1"
        valid = match and _NUMBER.fullmatch(number) and math.isfinite(float(number))
        check(
            bool(valid),
            "lora",
            "FILE.safetensors or FILE.safetensors:WEIGHT, or a LoRA's name",
            item,
        )
        assert match is not None
        found.append((Path(match[1] or match[3]), float(number)))
    return tuple(found)


def embeddings(text: str) -> tuple[Path, ...]:
    """The files of "cat.safetensors, dog.pt". Raises ValueError."""
    found = _listed(text, _EMBEDDING)
    for item in found:
        check(
            bool(_EMBEDDING.fullmatch(item)),
            "embedding",
            "a file .safetensors, .pt, .pth or .bin",
            item,
        )
    return tuple(Path(item) for item in found)


def places(name: str, text: str) -> tuple[tuple[str, Path], ...]:
    """Names and places of "edges=runs/edges, depth=depth.pth", each name once, for the setting
    `name`. Raises ValueError."""
    found: dict[str, Path] = {}
    for item in _listed(text, _PLACE, begins=True):
        match = _PLACE.fullmatch(item)
        check(
            match is not None and match[1] not in found,
            name,
            "NAME=FOLDER or NAME=FILE, each NAME once, of letters, digits, - and _",
            item,
        )
        assert match is not None
        found[match[1]] = Path(match[2])
    return tuple(found.items())


def structure_parts(text: str) -> tuple[str, str | None, str]:
    """(kind, annotator, file) of KIND=FILE or KIND:ANNOTATOR=FILE. Raises RequestError."""
    match = re.fullmatch(r"([^:=]+)(?::([^:=]+))?=(.+)", text, re.DOTALL)
    if match is None:
        raise RequestError(f"structure must be KIND=FILE or KIND:ANNOTATOR=FILE, got {text!r:.80}")
    return match[1], match[2], match[3]


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_LORA = re.compile(r"(.+\.(?i:safetensors))(?::([^:/\\]*))?")
_LORA_OR_NAME = re.compile(rf"{_LORA.pattern}|([\w-]+)(?::([^:/\\]*))?")
_EMBEDDING = re.compile(r".+\.(?i:safetensors|pt|pth|bin)")
_PLACE = re.compile(r"([\w-]+)=(.+)")


def _listed(text: str, item: re.Pattern[str], begins: bool = False) -> list[str]:
    """The items of a text, one a line. Within a line they may stand behind commas; as names of
    files may hold commas too, one parts items only where what is before it is a whole `item`, or,
    where every item `begins` with its name, what is behind it is one."""
    found: list[str] = []
    for line in text.splitlines():
        open_ = ""
        for piece in line.split(","):
            whole = item.fullmatch(piece.strip() if begins else open_.strip())
            if open_ and whole:
                found.append(open_.strip())
                open_ = piece
            else:
                open_ = f"{open_},{piece}" if open_ else piece
        found.append(open_.strip())
    return [each for each in found if each]


def check(valid: bool, name: str, expected: str, value: object) -> None:
    """Raises ValueError that names the setting, what it takes and its value."""
    if not valid:
        raise ValueError(f"{name} must be {expected}, got {value!r}")
