"""Files of one's own as a setting names them, several in one text."""

from __future__ import annotations

import math
import re
from pathlib import Path

from ipadapter_demo.errors import RequestError
from ipadapter_demo.lora import is_lora_file

PLAIN_NAME = r"\w[\w .()+-]{0,99}"  # of what lies in the folder of models


def loras(text: str) -> tuple[tuple[Path, float], ...]:
    """Files and weights of "style.safetensors:0.8, other.safetensors"; an item may also be the name
    of a LoRA that the model has. As a comma may be part of a file's name, a name without a weight
    stands behind the files, or in a line of its own. Raises ValueError."""
    found = []
    for item in _listed(text, _LORA_ENDS):
        names = [name.strip() for name in item.split(",")]
        found += [_lora(one) for one in ([item] if _LORA.fullmatch(item) else names) if one]
    return tuple(found)


def _lora(item: str) -> tuple[Path, float]:
    match = _LORA.fullmatch(item) or _NAMED_LORA.fullmatch(item)
    place = Path(match[1].strip() if match else "")
    number = "1" if match is None or match[2] is None else match[2]
    known = match is not None and (match.re is _LORA or not is_lora_file(place))
    check(
        known and bool(_NUMBER.fullmatch(number)) and math.isfinite(float(number)),
        "lora",
        "FILE.safetensors or FILE.safetensors:WEIGHT, or a LoRA's name",
        item,
    )
    return place, float(number)


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
_NAMED_LORA = re.compile(rf"({PLAIN_NAME})(?::([^:/\\]*))?")
_LORA_ENDS = re.compile(rf"{_LORA.pattern}|[^:/\\]+:[^:/\\,]+")  # names end with a weight
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
