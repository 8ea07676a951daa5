"""The report: how often what text names, a reference carries or a map fixes comes out right.

Scenes come from seeds that no recipe draws from. A generated picture is read by the attribute
classifier and compared with the truth of its scene.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from ipadapter_demo.evaluation import experiments
from ipadapter_demo.evaluation.benchmark import Benchmark
from ipadapter_demo.evaluation.drawing import Draw, drawn_by
from ipadapter_demo.evaluation.hand_written import hand_written
from ipadapter_demo.evaluation.inpainting import inpainting
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.tabletop.scene import HELD_OUT_SEED, sample_scenes

Progress = Callable[[str], None]
EXPERIMENTS = (
    experiments.vae,
    experiments.text_alone,
    experiments.free_words,
    hand_written,
    experiments.variation,
    experiments.variation_plus,
    experiments.layout,
    experiments.no_image,
    experiments.image_and_text,
    experiments.structure,
    experiments.palette,
    inpainting,
)


def evaluate(
    pipeline: ImagePromptPipeline,
    scenes: int = 200,
    seed: int = HELD_OUT_SEED,
    progress: Progress = lambda _: None,
    draw: Draw | None = None,
) -> dict[str, object]:
    """All experiments at the model's default settings: about nine pictures a scene, so minutes to
    hours. `draw` makes the pictures; this process, by default."""
    benchmark = Benchmark(pipeline.info, draw or drawn_by(pipeline), sample_scenes(scenes, seed))
    report: dict[str, object] = {
        "scenes": scenes,
        "seed": seed,
        "guidance": pipeline.info.recommended.guidance,
        "guidance_window": pipeline.info.recommended.guidance_window,
        "steps": pipeline.info.recommended.steps,
        "text_steps": pipeline.info.recommended.steps_for(True),
        "paint_steps": pipeline.info.recommended.steps_for(False, True),
        "provenance": pipeline.provenance_of(benchmark.request()),
    }
    if usual := pipeline.info.usual_loras:
        report["loras"] = [asdict(lora) for lora in usual]
    for experiment in EXPERIMENTS:
        progress(experiment.__name__)
        report[experiment.__name__] = experiment(benchmark)
    return report
