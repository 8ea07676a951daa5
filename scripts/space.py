"""The files of a Hugging Face Space, in a folder to upload: `make space SPACE=name/space`.

python scripts/space.py build/space
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ["README.md", "LICENSE", "app.py", "ipadapter_demo", "assets", "configs"]
MIB = 2**20
PLAIN_GIT = 10 * MIB  # larger files are refused in a plain git push


def requirements(lock: str) -> str:
    """The pins of a lock file. Without hashes, since a Space's own build adds packages to the same
    command, and pip would then refuse every one that has none."""
    pins = re.findall(r"^([a-z0-9][^\s;\\]+==[^\s;\\]+(?: ; [^\\\n]+)?)", lock, re.MULTILINE)
    return "".join(f"{pin.strip()}\n" for pin in pins)


def build(folder: Path) -> list[Path]:
    """Copy what git has of a Space's files, and return them. Raises OSError, and FileExistsError
    for a folder that is not empty."""
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: remove it, or name another folder")
    listed = subprocess.run(
        ["git", "ls-files", "-z", *FILES], cwd=ROOT, check=True, capture_output=True, text=True
    )
    names = [Path(name) for name in listed.stdout.split("\0") if name]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    pins = requirements((ROOT / "locks/space.txt").read_text(encoding="utf-8"))
    (folder / "requirements.txt").write_text(pins, encoding="utf-8")
    return [folder / name for name in names] + [folder / "requirements.txt"]


def main(folder: Path) -> None:
    try:
        files = build(folder)
    except OSError as error:
        sys.exit(f"space.py: {error}")
    size = sum(file.stat().st_size for file in files)
    print(f"{len(files)} files, {size / MIB:.0f} MiB, in {folder}")
    for file in files:
        if file.stat().st_size > PLAIN_GIT:
            print(f"{file.relative_to(folder)}: over 10 MiB, for `hf upload`, not for `git push`")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FOLDER")
    main(Path(sys.argv[1]))
