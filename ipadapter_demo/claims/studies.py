"""The studies that train. Each returns a JSON-ready record, which `claims/page.py` writes up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ipadapter_demo.adapter import ImageAdapter, attach
from ipadapter_demo.claims.figures import strip
from ipadapter_demo.claims.methods import METHODS, TRIED, at_rate, image_adapter
from ipadapter_demo.claims.restyle import cel_base, cel_pictures, ink
from ipadapter_demo.claims.study import (
    METRICS_SCENES,
    STEPS,
    drawn,
    metrics_of,
    run_folder,
    trained,
    variations,
)
from ipadapter_demo.claims.testbed import PICTURES, EvalSet, Testbed
from ipadapter_demo.evaluation.experiments import FLOOR_NAMES, SOLID_NAMES
from ipadapter_demo.imaging import images_from_pixels
from ipadapter_demo.tabletop.caption import floor_caption

SEEDS = (0, 1, 2)
SCALES = (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5)
SCENES = 192
DATA_LR = 1e-3  # of the shipped adapter's recipe

Progress = Callable[[str], None]


def methods(testbed: Testbed, progress: Progress) -> dict[str, object]:
    """Every method from the same data and steps: how much of the reference comes back."""
    eval_set = EvalSet.of(testbed, SCENES)
    rows = []
    for build in METHODS:
        metrics = []
        for seed in SEEDS:
            method = trained(testbed, build, seed)
            metrics.append(eval_set.metrics(testbed, variations(testbed, method, eval_set, seed)))
            progress(f"{method.name}, seed {seed}: {metrics[-1]}")
        rows.append(
            {
                "method": method.name,
                "parameters": method.parameters,
                "lr": method.lr,
                "metrics": by_name(metrics),
            }
        )
    truth = eval_set.metrics(testbed, eval_set.references)
    return {
        "scenes": SCENES,
        "steps": STEPS,
        "seeds": list(SEEDS),
        "rows": rows,
        "base_parameters": sum(p.numel() for p in testbed.unet.parameters()),
        "of_the_references_themselves": truth,
    }


def tuning(testbed: Testbed, progress: Progress) -> dict[str, object]:
    """Methods with other learning rates, by the evaluation at the last step."""
    rows = []
    for build, lr, seeds in TRIED:
        metrics = {}
        for seed in seeds:
            method = trained(testbed, at_rate(build, lr), seed)
            metrics[seed] = metrics_of(run_folder(testbed, method, seed, len(testbed.pictures)))[
                STEPS
            ]
            progress(f"{method.name}, lr {lr:g}, seed {seed}: {metrics[seed]}")
        rows.append({"method": method.name, "lr": lr, "metrics": metrics})
    return {"scenes": METRICS_SCENES, "steps": STEPS, "rows": rows}


def scale(testbed: Testbed, progress: Progress) -> dict[str, object]:
    """The text names another scene's floor: what λ trades between the picture and the words."""
    eval_set = EvalSet.of(testbed, SCENES // 3)
    scorer = eval_set.scorer
    texts = [floor_caption(scorer.scenes, i) for i in scorer.ahead(1).tolist()]
    curves = []
    for build in METHODS:
        points: list[list[dict[str, float]]] = []
        for seed in SEEDS:
            method = trained(testbed, build, seed)
            points.append([])
            for value in SCALES:
                images = images_from_pixels(
                    drawn(testbed, method, eval_set.references, texts, value, seed)
                )
                points[-1].append(
                    {
                        "image": scorer.score(images, SOLID_NAMES)["mean"],
                        "text": scorer.score(images, FLOOR_NAMES, of=scorer.ahead(1))["mean"],
                    }
                )
            progress(f"{method.name}, seed {seed}: {points[-1]}")
        curves.append(
            {
                "method": method.name,
                "points": [by_name(column) for column in zip(*points, strict=True)],
            }
        )
    return {"scenes": SCENES // 3, "scales": list(SCALES), "seeds": list(SEEDS), "curves": curves}


def data(testbed: Testbed, progress: Progress) -> dict[str, object]:
    """Fidelity against training steps, for 1 %, 10 % and all of the pictures."""
    curves = []
    for share in (0.01, 0.1, 1.0):
        pictures = round(share * PICTURES)
        runs = []
        for seed in SEEDS:
            method = trained(testbed, at_rate(image_adapter, DATA_LR), seed, pictures)
            runs.append(metrics_of(run_folder(testbed, method, seed, pictures)))
            progress(f"{pictures} pictures, seed {seed}: {runs[-1][STEPS]}")
        steps = sorted(runs[0])
        curves.append(
            {
                "pictures": pictures,
                "steps": steps,
                "metrics": [by_name([run[step] for run in runs]) for step in steps],
            }
        )
    return {"scenes": METRICS_SCENES, "seeds": list(SEEDS), "curves": curves}


def transfer(testbed: Testbed, progress: Progress) -> dict[str, object]:
    """Adapters trained on the testbed's base, on a base fine-tuned to another style: nothing is
    trained again."""
    eval_set = EvalSet.of(testbed, SCENES)
    other = cel_base(testbed)
    metrics: dict[str, list[dict[str, float]]] = {}
    strips: dict[str, str] = {}
    for seed in SEEDS:
        method = trained(testbed, image_adapter, seed)
        assert isinstance(method.trained, ImageAdapter)
        attach(other, method.trained)
        moved = replace(method, unet=other)
        nothing = [""] * SCENES
        for name, pixels in {
            "adapter on its own base": variations(testbed, method, eval_set, seed),
            "the same adapter on the other base": variations(testbed, moved, eval_set, seed),
            "the other base without it": drawn(
                testbed, moved, eval_set.references, nothing, 0.0, seed
            ),
        }.items():
            metrics.setdefault(name, []).append(
                eval_set.metrics(testbed, pixels) | {"ink": ink(pixels)}
            )
            strips.setdefault(name, strip(pixels))
            progress(f"{name}, seed {seed}: {metrics[name][-1]}")
    rendered = {
        "references": eval_set.references,
        "references in the other look": cel_pictures(eval_set.scorer.scenes),
    }
    return {
        "scenes": SCENES,
        "seeds": list(SEEDS),
        "rows": [
            {"what": name, "metrics": by_name(found), "strip": strips[name]}
            for name, found in metrics.items()
        ],
        "rendered": [
            {
                "what": name,
                "strip": strip(pixels),
                "metrics": eval_set.metrics(testbed, pixels) | {"ink": ink(pixels)},
            }
            for name, pixels in rendered.items()
        ],
    }


STUDIES: dict[str, Callable[[Testbed, Progress], dict[str, object]]] = {
    "data": data,
    "methods": methods,
    "tuning": tuning,
    "scale": scale,
    "transfer": transfer,
}


def by_name(metrics: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and spread (standard deviation over seeds) of each figure."""
    return {
        name: {
            "mean": round(float(np.mean([m[name] for m in metrics])), 4),
            "std": round(float(np.std([m[name] for m in metrics], ddof=1)), 4),
        }
        for name in metrics[0]
    }
