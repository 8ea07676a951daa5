"""Pages of the site that lie outside docs/: README, CONTRIBUTING, CHANGELOG, SECURITY, the figures.

They are written to be read where they lie, so their links are turned here.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = {
    "README.md": "index.md",
    "README.zh.md": "index.zh.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
# Files of the checkout that are no page of the site: their links become plain text.
ELSEWHERE = re.compile(r"\[([^\]]+)\]\((?:examples|LICENSE|CITATION\.cff)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    root = Path(config.config_file_path).parent
    figures = sorted(root.glob("assets/figures/*.webp"))
    names = PAGES | {path.relative_to(root).as_posix(): "" for path in figures}
    for name, uri in names.items():
        files.append(File.generated(config, uri or name, abs_src_path=str(root / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    if page.file.src_uri not in PAGES.values():
        return re.sub(r"\]\(\.\./([\w/.-]+)", lambda link: "](" + _in_site(link[1]), markdown)
    inside = re.sub(r"\]\(([\w/.-]+\.\w+)", lambda link: "](" + _in_site(link[1]), markdown)
    return ELSEWHERE.sub(r"\1", inside)


def _in_site(name: str) -> str:
    """Where a file of the checkout is in the site, all of whose pages lie in one folder."""
    return PAGES.get(name, name.removeprefix("docs/"))
