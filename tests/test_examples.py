"""The scripts and the notebook of examples/, and the HTTP example of README, can be run."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipadapter_demo as ip
from benchmarks.ports import free_port
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui, launch_options

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.fixture(scope="module")
def tabletop() -> ImagePromptPipeline:
    """What is loaded where nothing is named."""
    pipeline = ip.load(device="cpu", dtype="float32")
    assert pipeline.info.name == "tabletop"
    return pipeline


@pytest.fixture
def own_folder(
    tabletop: ImagePromptPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Examples write into a folder of their own, and `ip.load` gives all of them one model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ip, "load", lambda model: tabletop, raising=False)


def run_notebook(path: Path) -> dict[str, Any]:
    """Run the code cells in order in one fresh namespace, as "Run all" does; return the namespace.

    A cell is plain Python here: no magics, no shell lines.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "saved without outputs, so that changes can be read"
            exec(compile("".join(cell["source"]), f"cell {cell['id']}", "exec"), namespace)
    return namespace


def test_every_kind_of_request_has_an_example() -> None:
    assert SCRIPTS == ["image_text", "inpaint", "structure", "variation"]


@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_and_its_pictures_hold_their_requests(name: str) -> None:
    """The scripts check more themselves, with `assert`."""
    made = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    pictures = [path for path in Path("outputs").iterdir() if not path.stem.endswith("-map")]
    assert made["result"].request in [ip.request_from_png(path) for path in pictures]


@pytest.mark.usefixtures("own_folder")
def test_the_example_of_inpainting_keeps_the_picture(capsys: pytest.CaptureFixture[str]) -> None:
    made = runpy.run_path(str(EXAMPLES / "inpaint.py"), run_name="__main__")
    assert "outside the mask: 0 grey levels" in capsys.readouterr().out
    before, after = (np.array(made[name]) for name in ("before", "after"))
    assert (before != after)[~made["outside"]].any()


@pytest.mark.usefixtures("own_folder")
def test_the_notebook_runs() -> None:
    made = run_notebook(EXAMPLES / "tour.ipynb")
    assert made["bundle"].name == "bundle.zip"
    assert (made["bundle"].parent / "figure-p1.pdf").is_file()
    assert ip.request_from_png("outputs/tour.png") == made["result"].request


# gradio counts its calls with options that pandas is about to drop.
@pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated")
@pytest.mark.filterwarnings("ignore:The copy keyword is deprecated")
def test_the_readme_s_http_example_draws_a_picture(
    pipeline: ImagePromptPipeline, tmp_path: Path
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [script] = re.findall(r"^```sh\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    settings = Settings(port=free_port())
    page = build_ui(pipeline, settings)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **launch_options(settings))
    try:
        Image.new("RGB", (64, 64), "red").save(tmp_path / "reference.png")
        here = script.replace("http://127.0.0.1:7860/", url)
        assert here != script
        subprocess.run(["bash", "-euc", here], cwd=tmp_path, check=True, timeout=120)
    finally:
        page.close()
    request = ip.request_from_png(tmp_path / "output.png")
    assert (request.seed, request.count, request.image_scale) == (7, 1, 0.8)
