"""Comparisons: a spec in, cells as they finish, a figure and a bundle out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ipadapter_demo.compare.bundle import Bundle, spec_from_manifest
from ipadapter_demo.compare.cost import Cost, Pace
from ipadapter_demo.compare.job import ComparisonWarning, Done, Event, Failed, Job
from ipadapter_demo.compare.plan import Plan
from ipadapter_demo.compare.publish import Published, write_bundle
from ipadapter_demo.compare.scores import scores
from ipadapter_demo.compare.spec import Spec, spec_from_document, spec_from_file, spec_from_text
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.serving import ModelManager

__all__ = [
    "Bundle",
    "ComparisonWarning",
    "Cost",
    "Done",
    "Event",
    "Failed",
    "Job",
    "Pace",
    "Plan",
    "Published",
    "Spec",
    "carry_out",
    "draw_comparison",
    "scores",
    "spec_from_document",
    "spec_from_file",
    "spec_from_manifest",
    "spec_from_text",
    "write_bundle",
]


def draw_comparison(
    spec: Spec | Path | str,
    out: Path | str,
    pipeline: ImagePromptPipeline | ModelManager,
    clip: Path | None = None,
    report: Callable[[Event], None] = lambda event: None,
) -> Path:
    """Draw what is missing of a comparison in the folder `out`; the path of its bundle.

    `spec` is a file or what `spec_from_document` makes; `clip` a folder with a CLIP model to score
    by. Run again, it goes on where it was stopped.
    Raises RequestError; a cell that cannot be drawn raises nothing, it is reported as Failed, and
    a part of the bundle that cannot be made as a ComparisonWarning.
    """
    manager = pipeline if isinstance(pipeline, ModelManager) else ModelManager(pipeline)
    known = spec if isinstance(spec, Spec) else spec_from_file(Path(spec))
    return carry_out(Plan(known, manager), Path(out), clip, report)


def carry_out(plan: Plan, out: Path, clip: Path | None, report: Callable[[Event], None]) -> Path:
    """`draw_comparison`, of a plan that was made before."""
    job = Job(plan, out)
    job.save_given()
    for event in job.run():
        report(event)
    published = write_bundle(job, clip)
    for note in published.warnings:
        report(ComparisonWarning(note))
    return published.path
