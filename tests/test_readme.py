"""What the README says can be typed in, and the Space it configures is this project."""

import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser

import ipadapter_demo
from ipadapter_demo.settings import settings_from_args

ROOT = Path(__file__).parent.parent
_, FRONT_MATTER, TEXT = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", 2)
SPACE = yaml.safe_load(FRONT_MATTER)
PINS = dict(
    line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if line
)


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


GUIDE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
COMMANDS = list(dict.fromkeys(
    line for block in [*blocks("bash"), *blocks("bash", GUIDE)] for line in block.splitlines()
    if line.strip()))


def test_the_readme_shows_commands_and_python() -> None:
    assert "make demo" in COMMANDS
    assert blocks("python")


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
    elif words[0] == ".venv/bin/pip":
        assert words[1:3] == ["install", "-r"]
        assert (ROOT / words[3]).is_file()
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


@pytest.mark.parametrize("block", blocks("python"))
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


def test_every_pin_is_exact_and_the_version_is_in_the_changelog() -> None:
    assert all(re.fullmatch(r"[\w.]+", version) for version in PINS.values())
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changelog or f"## [{ipadapter_demo.__version__}]" in changelog
