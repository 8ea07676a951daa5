"""Imports point one way, and nothing in the project knows the machine it was written on."""

import ast
import re
import subprocess
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "ipadapter_demo"

# A unit is a module or subpackage of the package. It imports from its own tier and those before.
TIERS = [
    {
        "assets",
        "checks",
        "console",
        "embeds",
        "errors",
        "files",
        "fit",
        "flat",
        "load_options",
        "model_flags",
        "own_files",
        "own_thread",
        "colour",
        "depth",
        "feather",
        "imaging",
        "json_values",
        "layer_presets",
        "logins",
        "lora",
        "masks",
        "outpainting",
        "png_text",
        "prompt_syntax",
        "reference",
        "request",
        "room",
        "record",
        "record_pictures",
        "sampling",
        "server_flags",
        "settings",
        "size_limits",
        "temporary",
        "upscale",
    },
    {"adapter"},
    {"models"},
    {"pipeline"},
    {"serving"},
    {"compare", "evaluation", "training"},
    {"claims", "folders", "foreign"},
    {"ui", "cli", "__main__", "app"},
]
# The world stands aside: it needs no model, and no model knows about it.
WORLD, WORLD_USERS = "tabletop", {"training", "evaluation", "claims", "cli", "tabletop"}

SOURCES = sorted((ROOT / PACKAGE).rglob("*.py")) + sorted(ROOT.glob("app.py"))
# The package's own __init__ only names where public things live.
UNITS = [path for path in SOURCES if path != ROOT / PACKAGE / "__init__.py"]


def unit_of_path(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[path != ROOT / "app.py"]


def imported_modules(path: Path) -> Iterator[str]:
    """Every module `path` imports anywhere, as full dotted names, `from a import b` as a.b."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            outer = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*outer, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imported_units(path: Path) -> set[str]:
    names = (module.split(".") for module in imported_modules(path))
    return {name[1] for name in names if name[0] == PACKAGE and len(name) > 1}


def tier(unit: str) -> int:
    return next(number for number, units in enumerate(TIERS) if unit in units)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", UNITS, ids=named)
def test_imports_point_one_way(path: Path) -> None:
    unit, wanted = unit_of_path(path), imported_units(path)
    if unit == WORLD:
        assert wanted <= {WORLD} | TIERS[0]
        return
    if unit not in WORLD_USERS:
        assert WORLD not in wanted, f"only {WORLD_USERS} may know the world"
    upwards = {other for other in wanted - {WORLD} if tier(other) > tier(unit)}
    assert not upwards, f"{unit} must not import {upwards}"


def test_no_two_units_import_each_other() -> None:
    graph: dict[str, set[str]] = {}
    for path in UNITS:
        unit = unit_of_path(path)
        graph.setdefault(unit, set()).update(imported_units(path) - {unit})
    TopologicalSorter(graph).prepare()  # raises CycleError, which shows the circle


@pytest.mark.parametrize("path", [p for p in UNITS if unit_of_path(p) == "ui"], ids=named)
def test_a_tab_translates_and_never_computes(path: Path) -> None:
    used = {module.split(".")[0] for module in imported_modules(path)}
    assert not used & {"torch", "torchvision", "diffusers", "transformers"}


def text_files() -> list[Path]:
    """Whatever git tracks or would; everything, in a copy without git."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True).stdout.decode()
        paths = [ROOT / name for name in names.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        paths = [path for path in ROOT.rglob("*") if ".venv" not in path.parts]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8192]]


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    # Not after a letter, dot or slash: that is part of a URL or of a relative path.
    places = re.compile(r"(?<![\w./-])/(?:home|root|work|tmp|opt|mnt|srv|scratch|Users)/\w|file://")
    found = [
        f"{named(path)}: {match.group()}"
        for path in text_files()
        if path != Path(__file__)
        for match in places.finditer(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert not found, found[:10]
