"""The studies that train. Each returns a JSON-ready record, which `claims/page.py` writes up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ipadapter_demo.adapter import ImageAdapter, attach
from ipadapter_demo.claims.figures import strip
from ipadapter_demo.claims.lab import PICTURES, Exam, Lab
from ipadapter_demo.claims.look import cel_base, cel_pictures, ink
from ipadapter_demo.claims.methods import METHODS, TRIED, at_rate, image_adapter
from ipadapter_demo.claims.study import (
    MARKS_SCENES,
    STEPS,
    drawn,
    marks_of,
    run_folder,
    trained,
    variations,
)
from ipadapter_demo.evaluation.experiments import FLOOR_NAMES, SOLID_NAMES
from ipadapter_demo.imaging import images_from_pixels
from ipadapter_demo.tabletop.caption import floor_caption

SEEDS = (0, 1, 2)
SCALES = (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5)
SCENES = 192
DATA_LR = 1e-3  # of the shipped adapter's recipe

Progress = Callable[[str], None]


def methods(lab: Lab, progress: Progress) -> dict[str, Any]:
    """Every method from the same data and steps: how much of the reference comes back."""
    exam = Exam.of(lab, SCENES)
    rows = []
    for build in METHODS:
        marks = []
        for seed in SEEDS:
            method = trained(lab, build, seed)
            marks.append(exam.marks(lab, variations(lab, method, exam, seed)))
            progress(f"{method.name}, seed {seed}: {marks[-1]}")
        rows.append({"method": method.name, "parameters": method.parameters, "lr": method.lr,
                     "marks": by_name(marks)})
    truth = exam.marks(lab, exam.references)
    return {"scenes": SCENES, "steps": STEPS, "seeds": list(SEEDS), "rows": rows,
            "base_parameters": sum(p.numel() for p in lab.unet.parameters()),
            "of_the_references_themselves": truth}


def tuning(lab: Lab, progress: Progress) -> dict[str, Any]:
    """Methods with other learning rates, by the exam on the way at the last step."""
    rows = []
    for build, lr, seeds in TRIED:
        marks = {}
        for seed in seeds:
            method = trained(lab, at_rate(build, lr), seed)
            marks[seed] = marks_of(run_folder(lab, method, seed, len(lab.pictures)))[STEPS]
            progress(f"{method.name}, lr {lr:g}, seed {seed}: {marks[seed]}")
        rows.append({"method": method.name, "lr": lr, "marks": marks})
    return {"scenes": MARKS_SCENES, "steps": STEPS, "rows": rows}


def scale(lab: Lab, progress: Progress) -> dict[str, Any]:
    """The text names another scene's floor: what λ trades between the picture and the words."""
    exam = Exam.of(lab, SCENES // 3)
    judge = exam.judge
    texts = [floor_caption(judge.scenes, i) for i in judge.ahead(1).tolist()]
    curves = []
    for build in METHODS:
        points: list[list[dict[str, float]]] = []
        for seed in SEEDS:
            method = trained(lab, build, seed)
            points.append([])
            for value in SCALES:
                images = images_from_pixels(
                    drawn(lab, method, exam.references, texts, value, seed))
                points[-1].append({
                    "image": judge.score(images, SOLID_NAMES)["mean"],
                    "text": judge.score(images, FLOOR_NAMES, of=judge.ahead(1))["mean"],
                })
            progress(f"{method.name}, seed {seed}: {points[-1]}")
        curves.append({"method": method.name,
                       "points": [by_name(column) for column in zip(*points, strict=True)]})
    return {"scenes": SCENES // 3, "scales": list(SCALES), "seeds": list(SEEDS), "curves": curves}


def data(lab: Lab, progress: Progress) -> dict[str, Any]:
    """Fidelity against training steps, for 1 %, 10 % and all of the pictures."""
    curves = []
    for share in (0.01, 0.1, 1.0):
        pictures = round(share * PICTURES)
        runs = []
        for seed in SEEDS:
            method = trained(lab, at_rate(image_adapter, DATA_LR), seed, pictures)
            runs.append(marks_of(run_folder(lab, method, seed, pictures)))
            progress(f"{pictures} pictures, seed {seed}: {runs[-1][STEPS]}")
        steps = sorted(runs[0])
        curves.append({"pictures": pictures, "steps": steps,
                       "marks": [by_name([run[step] for run in runs]) for step in steps]})
    return {"scenes": MARKS_SCENES, "seeds": list(SEEDS), "curves": curves}


def transfer(lab: Lab, progress: Progress) -> dict[str, Any]:
    """Adapters trained on the lab's base, on a base fine-tuned to another look: nothing is trained
    again."""
    exam = Exam.of(lab, SCENES)
    other = cel_base(lab)
    marks: dict[str, list[dict[str, float]]] = {}
    strips: dict[str, str] = {}
    for seed in SEEDS:
        method = trained(lab, image_adapter, seed)
        assert isinstance(method.trained, ImageAdapter)
        attach(other, method.trained)
        moved = replace(method, unet=other)
        nothing = [""] * SCENES
        for name, pixels in {
            "adapter on its own base": variations(lab, method, exam, seed),
            "the same adapter on the other base": variations(lab, moved, exam, seed),
            "the other base without it": drawn(lab, moved, exam.references, nothing, 0.0, seed),
        }.items():
            marks.setdefault(name, []).append(exam.marks(lab, pixels) | {"ink": ink(pixels)})
            strips.setdefault(name, strip(pixels))
            progress(f"{name}, seed {seed}: {marks[name][-1]}")
    rendered = {"references": exam.references,
                "references in the other look": cel_pictures(exam.judge.scenes)}
    return {"scenes": SCENES, "seeds": list(SEEDS),
            "rows": [{"what": name, "marks": by_name(found), "strip": strips[name]}
                     for name, found in marks.items()],
            "rendered": [{"what": name, "strip": strip(pixels),
                          "marks": exam.marks(lab, pixels) | {"ink": ink(pixels)}}
                         for name, pixels in rendered.items()]}


STUDIES: dict[str, Callable[[Lab, Progress], dict[str, Any]]] = {
    "data": data, "methods": methods, "tuning": tuning, "scale": scale, "transfer": transfer,
}


def by_name(marks: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and spread (standard deviation over seeds) of each figure."""
    return {
        name: {"mean": round(float(np.mean([m[name] for m in marks])), 4),
               "std": round(float(np.std([m[name] for m in marks], ddof=1)), 4)}
        for name in marks[0]
    }
