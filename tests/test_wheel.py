"""The package installs: wheel and source archive are built, and used from another folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import time
import tomllib
import urllib.error
import urllib.request
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ipadapter_demo
from benchmarks.ports import free_port
from ipadapter_demo.record import record_from_png

ROOT = Path(__file__).parent.parent
VERSION = ipadapter_demo.__version__
Run = Callable[..., str]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source archive, which must lack nothing."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return built("wheel", folder / f"ipadapter_demo-{VERSION}", folder / "dist")


def built(target: str, source: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment with the wheel, and this one's libraries but not the checkout:
    installing those anew would take minutes and a network."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    names = {"base": str(folder), "platbase": str(folder)}
    libraries = Path(sysconfig.get_path("purelib", "venv", names))
    places = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (libraries / "libraries.pth").write_text("\n".join(places))
    scripts = Path(sysconfig.get_path("scripts", "venv", names))
    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True)
    return scripts


ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name != "PYTHONPATH" and not name.startswith("IPADAPTER_")
} | {"HF_HUB_OFFLINE": "1"}


@pytest.fixture
def run(scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A script of the environment with words, in an empty folder -> its output."""
    monkeypatch.chdir(tmp_path)

    def run(script: str, *words: str) -> str:
        done = subprocess.run(
            [str(scripts / script), *words], env=ENVIRONMENT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_wheel_holds_the_package_and_its_assets(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "ipadapter_demo", "assets", "configs"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    wanted = {
        name if name.startswith("ipadapter_demo/") else f"ipadapter_demo/{name}"
        for name in tracked
        if not name.startswith("assets/figures/") and (ROOT / name).exists()
    }
    assert wanted <= names
    about = f"ipadapter_demo-{VERSION}.dist-info/"
    assert all(name.startswith(("ipadapter_demo/", about)) for name in names)
    assert not [name for name in names if "__pycache__" in name]


def test_it_is_imported_from_where_it_was_installed(run: Run, scripts: Path) -> None:
    code = (
        "import json, sys, ipadapter_demo as ip\n"
        "from ipadapter_demo.assets import asset\n"
        "places = [str(asset(p)) for p in ('assets/style.css', 'configs/tabletop.yaml')]\n"
        "print(json.dumps([ip.__file__, *places, *sys.path]))"
    )
    package, style, config, *path = map(Path, json.loads(run("python", "-c", code)))
    assert package.is_relative_to(scripts.parent)
    assert style.is_relative_to(package.parent)
    assert style.read_bytes() == (ROOT / "assets/style.css").read_bytes()
    assert config.read_bytes() == (ROOT / "configs/tabletop.yaml").read_bytes()
    assert ROOT not in [place.resolve() for place in path]


def test_the_command_says_its_own_name_and_version(run: Run) -> None:
    assert run("ipadapter-demo", "--version") == f"ipadapter-demo {VERSION}\n"
    said = run("ipadapter-demo", "generate", "--help")
    assert said.startswith("usage: ipadapter-demo generate")
    assert "python -m" not in said
    said = run("python", "-m", "ipadapter_demo", "generate", "--help")
    assert said.startswith("usage: python -m ipadapter_demo generate")


def test_generate_in_another_folder(run: Run, tmp_path: Path) -> None:
    words = ("--prompt", "a red cube", "--steps", "1", "--device", "cpu")
    line = json.loads(run("ipadapter-demo", "generate", *words))
    assert Path(line["path"]) == Path("outputs/0.png")
    assert record_from_png(tmp_path / line["path"]).request.prompt == "a red cube"


def test_the_schema_of_a_comparison(run: Run) -> None:
    assert json.loads(run("ipadapter-demo", "compare", "--schema"))["properties"]


def test_serve_in_another_folder(scripts: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [str(scripts / "ipadapter-demo"), "serve", "--port", str(port), "--device", "cpu"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=log, stderr=log
    ) as server:  # fmt: skip
        try:
            page = answer(f"http://127.0.0.1:{port}/config", server)
        finally:
            server.terminate()
    said = json.loads(page)
    assert said["title"] == "IP-Adapter demo"
    assert (ROOT / "assets/style.css").read_text().splitlines()[0] in said["css"]


def answer(url: str, server: subprocess.Popen[bytes]) -> str:
    """Asked again until the server is there."""
    for _ in range(600):
        assert server.poll() is None, "the server has ended"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                return response.read().decode()
        except urllib.error.URLError:
            time.sleep(0.2)
    raise AssertionError("the server does not answer")


@pytest.mark.parametrize(
    ("file", "field"),
    [
        ("requirements.txt", None),
        ("requirements-train.txt", "train"),
        ("requirements-ray.txt", "ray"),
    ],
)
def test_every_pin_lies_in_the_range_of_the_package(file: str, field: str | None) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = project["dependencies"] if field is None else project["optional-dependencies"][field]
    known = {canonicalize_name((r := Requirement(text)).name): r.specifier for text in ranges}
    pins = [Requirement(line) for line in (ROOT / file).read_text().splitlines() if "==" in line]
    assert {canonicalize_name(pin.name) for pin in pins} == known.keys()
    for pin in pins:
        (version,) = [exact.version for exact in pin.specifier]
        assert known[canonicalize_name(pin.name)].contains(version)
        assert not known[canonicalize_name(pin.name)].contains("0.0.1")


def test_no_range_names_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not [text for text in project["dependencies"] if "==" in text]
