"""Commands and Python in the README and the docs can be run, and the Space is this project."""

import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser

import benchmarks.__main__
import benchmarks.curve
import benchmarks.pairs
import benchmarks.steps
import benchmarks.walk
import fuzz.__main__
import ipadapter_demo
from ipadapter_demo.models.weight_hashes import recorded_hashes
from ipadapter_demo.settings import settings_from_args

ROOT = Path(__file__).parent.parent
_, FRONT_MATTER, TEXT = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", 2)
SPACE = yaml.safe_load(FRONT_MATTER)
PINS = dict(
    line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if line
)


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


PAGES = [TEXT, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")]
PAGES += [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = list(
    dict.fromkeys(
        line
        for page in PAGES
        for block in blocks("bash", page)
        for line in block.splitlines()
        if line.strip()
    )
)
PYTHON = [block for page in PAGES for block in blocks("python", page)]


def test_the_readme_shows_commands_and_python() -> None:
    assert {"make demo", "make test"} <= set(blocks("bash")[0].splitlines())
    assert blocks("python")


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_the_readme_is_short(name: str) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 150


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)|<(http[^>]+)>", text)


def figures(text: str) -> list[list[str]]:
    """The numbers of each row of a table; of the rest in one list, sorted."""
    prose = re.sub(r"^```.*?^```|\]\([^)]*\)", "", text, flags=re.MULTILINE | re.DOTALL)
    rows = [line for line in prose.splitlines() if line.startswith("|")]
    rest = " ".join(line for line in prose.splitlines() if not line.startswith("|"))
    number = re.compile(r"\d+(?:[.,]\d+)*")
    return [*(number.findall(row) for row in rows), sorted(number.findall(rest))]


def test_the_readme_in_chinese_says_the_same() -> None:
    """Commands, code, links, tables, and all numbers."""
    chinese = (ROOT / "README.zh.md").read_text(encoding="utf-8")
    assert "](README.zh.md)" in "".join(TEXT.splitlines()[:5])
    assert "](README.md)" in "".join(chinese.splitlines()[:5])
    for language in ("bash", "sh", "python"):
        assert blocks(language, chinese) == blocks(language)
    here, there = links(TEXT)[1:], links(chinese)[1:]  # the first is the other one
    assert sorted(here) == sorted(there)
    assert figures(chinese) == figures(TEXT)
    spans = [re.findall(r"(?<!`)`[^`\n]+`(?!`)", text) for text in (TEXT, chinese)]
    assert sorted(spans[0]) == sorted(spans[1])
    assert chinese.count("\n## ") == TEXT.count("\n## ")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command: str) -> None:
    words = shlex.split(command)
    env = {}
    while "=" in words[0]:
        name, value = words.pop(0).split("=", 1)
        env[name] = value
    if words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
    elif words[:3] == [".venv/bin/python", "-m", "ipadapter_demo"]:
        help_ = [*(word for word in words[3:] if word != "--help"), "--help"]
        subprocess.run([sys.executable, "-m", "ipadapter_demo", *help_], cwd=ROOT, check=True)
    elif words[:3] == [".venv/bin/python", "-m", "benchmarks"]:
        benchmarks.__main__.command_parser().parse_args(words[3:])
    elif words[:3] == [".venv/bin/python", "-m", "benchmarks.steps"]:
        benchmarks.steps.parsed(words[3:])
    elif words[:3] == [".venv/bin/python", "-m", "benchmarks.curve"]:
        named = benchmarks.curve.parsed(words[3:]).files
        assert all((ROOT / each.rsplit("=", 1)[1]).is_file() for each in named)
    elif words[:3] == [".venv/bin/python", "-m", "benchmarks.pairs"]:
        benchmarks.pairs.parsed(words[3:])
    elif words[:3] == [".venv/bin/python", "-m", "benchmarks.walk"]:
        assert benchmarks.walk.parsed(words[3:]).picture.is_file()
    elif words[:3] == [".venv/bin/python", "-m", "fuzz"]:
        fuzz.__main__.command_parser().parse_args(words[3:])
    elif words[0] == ".venv/bin/pip":
        assert words[1:3] == ["install", "-r"]
        assert (ROOT / words[3]).is_file()
    elif words[:3] == [".venv/bin/python", "-m", "pytest"]:
        assert all((ROOT / word).is_file() for word in words if word.startswith("tests/"))
    elif words[0] == ".venv/bin/hf":
        help_ = [str(Path(sys.executable).with_name("hf")), *words[1:], "--help"]
        subprocess.run(help_, check=True, capture_output=True)
    elif words[:3] == [".venv/bin/python", "-m", "ipadapter_demo.models.weight_hashes"]:
        assert recorded_hashes(ROOT / words[3])
    elif words[0] == ".venv/bin/mutmut":
        assert len(words) == 2
    elif words[:2] == [".venv/bin/accelerate", "launch"]:
        assert launch_command_parser().parse_args(words[2:])
        asked = dict(pairwise(words))
        assert (ROOT / asked["--config"]).is_file()
        assert (ROOT / asked.get("--config_file", "configs")).exists()
        module = (ROOT / asked["-m"].replace(".", "/")).with_suffix(".py")
        assert '__name__ == "__main__"' in module.read_text()
    else:
        assert words[:2] == [".venv/bin/python", "app.py"]
        settings_from_args(words[2:], env)


@pytest.mark.parametrize("block", PYTHON)
def test_python_compiles_and_uses_public_names(block: str) -> None:
    compile(block, "README.md", "exec")
    assert set(re.findall(r"\bip\.(\w+)", block)) <= set(ipadapter_demo.__all__)


def test_the_space_runs_what_is_pinned_here() -> None:
    assert SPACE["sdk"] == "gradio"
    assert SPACE["sdk_version"] == PINS["gradio"]
    assert SPACE["python_version"] == "3.11"  # a string: YAML would read 3.10 as 3.1
    assert SPACE["app_file"] == "app.py"
    assert SPACE["license"] == "apache-2.0"


def test_the_front_matter_is_accepted_by_spaces() -> None:
    """https://huggingface.co/docs/hub/spaces-config-reference"""
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {SPACE["colorFrom"], SPACE["colorTo"]} <= colours
    assert len(SPACE["short_description"]) <= 60
    assert len(SPACE["emoji"].rstrip("\ufe0f")) == 1


def test_every_pin_is_exact() -> None:
    assert all(re.fullmatch(r"[\w.]+", version) for version in PINS.values())


HEADING = re.compile(r"\[(Unreleased|\d+\.\d+\.\d+)\](?: - (\d{4}-\d\d-\d\d))?")


def faults(changelog: str, version: str) -> list[str]:
    """Where a changelog is not what https://keepachangelog.com/en/1.1.0/ asks for, or is behind
    the version of the package."""
    parts = re.split(r"^## (.*)\n", changelog, flags=re.MULTILINE)[1:]
    heads = [HEADING.fullmatch(head) for head in parts[::2]]
    if not all(heads):
        return [
            f"no heading of a version: {head}" for head in parts[::2] if not HEADING.fullmatch(head)
        ]
    found = [(match[1], match[2]) for match in heads if match]
    released = [tuple(map(int, name.split("."))) for name, _ in found if name != "Unreleased"]
    now = tuple(map(int, version.split(".")))
    open_ = bool(found) and found[0] == ("Unreleased", None)
    wrong = {
        "an entry must be dated, and only what is unreleased is not": any(
            (name == "Unreleased") != (date is None) for name, date in found
        ),
        "Unreleased must come first": "Unreleased" in [name for name, _ in found[1:]],
        "versions must fall": released != sorted(set(released), reverse=True),
        "a section must say something": not all(text.strip() for text in parts[1::2]),
        "the package's version must be the newest entry, or come after it under Unreleased": now
        < max(released, default=(0, 0, 0))
        or (now not in released and not open_),
    }
    return [what for what, is_wrong in wrong.items() if is_wrong]


def test_the_changelog_is_one_and_knows_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert faults(text, ipadapter_demo.__version__) == []


@pytest.mark.parametrize(
    ("changelog", "fault"),
    [
        ("# Changelog\n", "the package's version"),
        ("## [0.0.9] - 2026-01-01\n- x\n", "the package's version"),
        ("## [Unreleased]\n- y\n## [0.2.0] - 2026-01-01\n- x\n", "the package's version"),
        ("## [Unreleased]\n\n## [0.0.1] - 2026-01-01\n- x\n", "must say something"),
        ("## [0.1.0]\n- x\n", "must be dated"),
        ("## [0.1.0] - 2026-01-01\n- x\n## [Unreleased]\n- y\n", "must come first"),
        ("## [0.1.0] - 2026-01-01\n- x\n## [0.1.1] - 2026-01-02\n- y\n", "versions must fall"),
        ("## Version 0.1.0\n- x\n", "no heading"),
    ],
)
def test_a_changelog_s_faults_are_found(changelog: str, fault: str) -> None:
    assert any(fault in found for found in faults(changelog, "0.1.0"))


@pytest.mark.parametrize(
    "changelog",
    [
        "## [Unreleased]\n- x\n",
        "## [0.1.0] - 2026-01-01\n- x\n",
        "## [Unreleased]\n- y\n## [0.1.0] - 2026-01-01\n- x\n",
        "## [Unreleased]\n- y\n## [0.0.9] - 2026-01-01\n- x\n",
    ],
)
def test_a_changelog_without_faults_passes(changelog: str) -> None:
    assert faults(changelog, "0.1.0") == []
