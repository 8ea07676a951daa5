"""The SHA-256 of the built-in model's weight files: recorded in its provenance.json, and checked
whenever it is loaded.

Files that were replaced on purpose are recorded by
`python -m ipadapter_demo.models.weight_hashes assets/tabletop`, as a training does by itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ipadapter_demo.errors import ModelError
from ipadapter_demo.files import write_file
from ipadapter_demo.models.sources import file_sha256

FILE, FIELD = "provenance.json", "sha256"


def weight_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 in hexadecimal of every .safetensors file below a folder, by its path in it."""
    files = sorted(folder.rglob("*.safetensors"))
    return {file.relative_to(folder).as_posix(): file_sha256(file) for file in files}


def record_hashes(folder: Path) -> None:
    """Into the folder's provenance.json, beside what is there."""
    path = folder / FILE
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known.pop(FIELD, None)
    known[FIELD] = weight_hashes(folder)
    write_file(path, (json.dumps(known, indent=2) + "\n").encode())


def recorded_hashes(folder: Path) -> dict[str, str]:
    return json.loads((folder / FILE).read_text(encoding="utf-8"))[FIELD]


def check_hashes(folder: Path) -> None:
    """Raises ModelError that names the first file that is missing or is not the recorded one."""
    for name, expected in recorded_hashes(folder).items():
        file = folder / name
        if not file.is_file():
            raise ModelError(f"{file} is missing: restore it")
        if (found := file_sha256(file)) != expected:
            raise ModelError(
                f"{file} has the SHA-256 {found}, but {expected} is recorded in {FILE}: it is "
                "damaged or another file. Restore it"
            )


if __name__ == "__main__":
    record_hashes(Path(sys.argv[1]))
