"""The documentation: its site builds, the files and names in it exist, laws are cited rightly."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import ipadapter_demo
from ipadapter_demo.cli import generate
from ipadapter_demo.sampling import SAMPLERS, noise_schedules_of
from scripts.screenshots import SHOTS

ROOT = Path(__file__).parent.parent
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TESTS = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("*.py")}
# number -> the files that prove it
LAWS = {
    int(number): re.findall(r"`(test_\w+)`", files)
    for number, files in re.findall(r"^\| (\d+) \| .* \| (.*) \|$", ARCHITECTURE, re.MULTILINE)
}
MOST = {"sampler": 2, "variant": 2, "tab": 2, "request field": 5, "kind of structure": 2}
WALKS = {
    re.sub(r"^A new | of the adapter$", "", walk.splitlines()[0]): walk
    for walk in CONTRIBUTING.split("\n### ")[1:]
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it: a link to nowhere is an error."""
    folder = tmp_path_factory.mktemp("site")
    words = ["-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    run = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder


def test_the_site_has_every_page(site: Path) -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    pages |= {"index", "contributing", "changelog", "security"}
    assert pages <= {path.stem for path in site.glob("*.html")}
    start = (site / "index.html").read_text(encoding="utf-8")
    for figure in re.findall(r'<img[^>]*src="([^"]+)"', start):
        assert (site / figure).is_file()


def test_the_site_documents_every_public_name(site: Path) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    shown = set(re.findall(r'id="ipadapter_demo\.(\w+)"', page))
    assert shown == set(ipadapter_demo.__all__)


def test_the_site_asks_no_other_machine_for_anything(site: Path) -> None:
    for page in site.glob("*.html"):
        tags = re.findall(r"<(?:script|link|img)[^>]*>", page.read_text(encoding="utf-8"))
        assert not [tag for tag in tags if re.search(r'(?:src|href)="(?:https?:)?//', tag)]


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=str)
def test_links_lead_to_files(page: Path) -> None:
    """In the checkout; those between pages of the site are checked when it is built."""
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_every_screenshot_is_shown() -> None:
    text = (ROOT / "docs/page.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"screenshots/([\w-]+\.webp)", text))
    assert shown == {path.name for path in (ROOT / "docs/screenshots").iterdir()}
    made = {f"{name}-{window}.webp" for name, (_, _, all_of) in SHOTS.items() for window in all_of}
    assert made == shown


def test_the_laws_are_numbered_and_the_tests_that_prove_them_cite_them() -> None:
    assert list(LAWS) == list(range(1, 15))
    for law, files in LAWS.items():
        assert files
        for name in files:
            assert name in TESTS
            cited = re.findall(r"\blaw (\d+)\b", TESTS[name], re.IGNORECASE)
            assert law > 12 or str(law) in cited, f"{name} does not cite law {law}"


@pytest.mark.parametrize("name", sorted(TESTS))
def test_a_law_that_a_test_cites_exists(name: str) -> None:
    cited = {int(number) for number in re.findall(r"\bLaw (\d+)\b", TESTS[name])}
    assert cited <= set(LAWS)


def test_a_walk_touches_no_more_files_than_it_may() -> None:
    assert list(WALKS) == list(MOST)
    for name, walk in WALKS.items():
        steps = re.findall(r"^\d\. ", walk, re.MULTILINE)
        assert 0 < len(steps) <= MOST[name]


@pytest.mark.parametrize("name", MOST)
def test_the_files_and_names_of_a_walk_exist(name: str) -> None:
    places = re.findall(r"`((?:ipadapter_demo|tests)/[\w/.]+)`", WALKS[name])
    assert places
    assert not [place for place in places if not (ROOT / place).exists()]
    sources = [(ROOT / place) for place in places if place.endswith(".py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert not [word for word in re.findall(r"`([A-Z]\w+)`", WALKS[name]) if word not in text]


def test_the_files_that_the_architecture_names_exist() -> None:
    places = re.findall(r"`([\w/]+(?:/|\.py))`", ARCHITECTURE)
    assert len(places) > 10
    roots = (ROOT, ROOT / "ipadapter_demo")
    assert not [place for place in places if not any((root / place).exists() for root in roots)]


def test_the_samplers_are_listed_with_their_noise_schedules() -> None:
    text = (ROOT / "docs/samplers.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| .* \| (.*)\|$", text, re.MULTILINE)
    listed = {name: tuple(re.findall(r"`(\w+)`", schedules)) for name, schedules in rows}
    assert listed == {name: noise_schedules_of(name)[1:] for name in SAMPLERS}


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == ipadapter_demo.__version__
    assert citation["license"] == "Apache-2.0"
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"[{citation['version']}] - {citation['date-released']}" in changelog


def test_the_workflow_runs_what_ci_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    [job] = workflow["jobs"].values()
    assert job["steps"][-1] == {"run": "bash .ci/run"}


def test_the_hooks_call_the_pinned_tools() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    pins = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
    for repository in hooks["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            tool = hook["entry"].split()[0].removeprefix(".venv/bin/")
            assert re.search(rf"^{tool}==", pins, re.MULTILINE)


def test_every_feature_has_its_place_its_options_and_its_tests() -> None:
    rows = re.findall(
        r"^\| (?!Feature|---)(.+) \|$", (ROOT / "docs/features.md").read_text("utf-8"), re.MULTILINE
    )
    assert len(rows) > 25
    parser = argparse.ArgumentParser()
    generate.add_options(parser)
    options = {option for action in parser._actions for option in action.option_strings}
    page = "".join(f.read_text("utf-8") for f in (ROOT / "ipadapter_demo/ui").rglob("*.py"))
    for row in rows:
        tests = re.findall(r"`(test_\w+)`", row)
        assert tests, row
        assert set(tests) <= set(TESTS), row
        assert set(re.findall(r"`(--[\w-]+)[ \w.]*`", row)) <= options, row
        for label in re.findall(r"(?<!\*)\*([^*]+)\*", row):
            assert f'"{label}' in page, label
