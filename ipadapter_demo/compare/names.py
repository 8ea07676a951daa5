"""What a comparison's folder holds beside the folders of its pictures, by name."""

from __future__ import annotations

SPEC, PIXELS, BUNDLE = "spec.json", "pixels.json", "bundle.zip"
FIGURE, SCORES, NOTES = "figure.tex", "scores.csv", "warnings.txt"
MANIFEST, SCRIPT = "manifest.json", "rerun.sh"
FORMATS = ("pdf", "svg", "png")  # of a page of the figure


def published(pages: int) -> set[str]:
    """The files that are written anew into a bundle, of a figure of so many pages."""
    figures = {f"figure-p{page}.{kind}" for page in range(1, pages + 1) for kind in FORMATS}
    return figures | {FIGURE, SCORES, NOTES, MANIFEST, SCRIPT}
