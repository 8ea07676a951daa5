"""The studies of the shipped model, through the pipeline everybody uses. Nothing is trained."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ipadapter_demo.claims.studies import SEEDS, Progress, by_name
from ipadapter_demo.claims.testbed import EVAL_SEED
from ipadapter_demo.evaluation.benchmark import Benchmark
from ipadapter_demo.evaluation.drawing import Draw
from ipadapter_demo.evaluation.experiments import COLOUR_NAMES, mean_cell_error, mean_edge_f1
from ipadapter_demo.models.annotators import annotate
from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.request import GenerateRequest, Structure
from ipadapter_demo.tabletop.scene import sample_scenes

STRUCTURE_SCENES = 48
# name -> weights of the ControlNet on edges and of the T2I-Adapters on edges and on colours
COMPOSED: dict[str, dict[str, float]] = {
    "no structure": {},
    "ControlNet, edges": {"canny": 1.0},
    "T2I-Adapter, edges": {"t2i-canny": 1.0},
    "T2I-Adapter, colours": {"palette": 1.0},
    "T2I-Adapters, edges 1 + colours 1": {"t2i-canny": 1.0, "palette": 1.0},
    "T2I-Adapters, edges 1 + colours 0.5": {"t2i-canny": 1.0, "palette": 0.5},
    "T2I-Adapters, edges 0.5 + colours 1": {"t2i-canny": 0.5, "palette": 1.0},
}
PLUS_SCENES, PLUS_SEEDS = 24, 8
PLUS_SCALES = (0.4, 0.6, 0.8, 1.0, 1.2)


def structure(info: ModelInfo, draw: Draw, progress: Progress) -> dict[str, object]:
    """One scene's edges or colours with another's appearance; then edges and colours together."""
    benchmark = Benchmark(info, draw, sample_scenes(STRUCTURE_SCENES, EVAL_SEED))
    sources = [benchmark.images[i] for i in benchmark.ahead(1).tolist()]
    maps = {
        "canny": [annotate("canny", s) for s in sources],
        "palette": [annotate("palette", s) for s in sources],
    }
    maps["t2i-canny"] = maps["canny"]
    rows = []
    for name, weights in COMPOSED.items():
        for referenced in (True, False):
            metrics = []
            for seed in SEEDS:
                images = draw(
                    [
                        benchmark.request(
                            seed=1000 * seed + i,
                            references=benchmark.reference(i) if referenced else (),
                            structures=tuple(
                                Structure(kind=kind, image=maps[kind][i], weight=weight)
                                for kind, weight in weights.items()
                            ),
                        )
                        for i in range(STRUCTURE_SCENES)
                    ]
                )
                metrics.append(
                    {
                        "edge_f1": mean_edge_f1(images, maps["canny"]),
                        "cell_error": mean_cell_error(images, maps["palette"]),
                        "colours_of_reference": benchmark.score(images, COLOUR_NAMES)["mean"],
                    }
                )
            rows.append({"structure": name, "reference": referenced, "metrics": by_name(metrics)})
            progress(f"{name}, {'with' if referenced else 'without'} a reference: {metrics[-1]}")
    return {"scenes": STRUCTURE_SCENES, "seeds": list(SEEDS), "rows": rows}


def plus(info: ModelInfo, draw: Draw, progress: Progress) -> dict[str, object]:
    """Base against Plus over λ: how much of the reference is kept, and how much is left open."""
    benchmark = Benchmark(info, draw, sample_scenes(PLUS_SCENES, EVAL_SEED))
    of = torch.arange(PLUS_SCENES).repeat_interleave(PLUS_SEEDS)

    def requests(adapter: str, scale: float) -> list[GenerateRequest]:
        return [
            benchmark.request(
                references=benchmark.reference(int(i)),
                adapter=adapter,
                image_scale=scale,
                seed=place,
            )
            for place, i in enumerate(of)
        ]

    curves = []
    for adapter in info.adapters:
        points = []
        for scale in PLUS_SCALES:
            images = draw(requests(adapter, scale))
            places = benchmark.classifier.classify(images)["solid_place"] / 2
            spread = places.unflatten(0, (-1, PLUS_SEEDS)).std(dim=1).mean(dim=1)
            kept = benchmark.score(images, of=of)["mean"]
            points.append(
                {
                    "scale": scale,
                    "attributes": kept,
                    "spread": round(spread.mean().item(), 4),
                    "spread_error": round(spread.std().item() / PLUS_SCENES**0.5, 4),
                }
            )
            progress(f"{adapter}: {points[-1]}")
        curves.append({"adapter": adapter, "points": points})
    everywhere = float(np.mean(benchmark.measures["solid_place"].div(2).std(dim=0).tolist()))
    return {
        "scenes": PLUS_SCENES,
        "seeds_each": PLUS_SEEDS,
        "curves": curves,
        "spread_over_scenes": round(everywhere, 4),
    }


SHIPPED: dict[str, Callable[[ModelInfo, Draw, Progress], dict[str, object]]] = {
    "structure": structure,
    "plus": plus,
}
