"""The command line: generate, compare, render, evaluate, train.

Results go to stdout as JSON, one line each; everything else goes to stderr. Nothing heavy is
imported before a command runs, so help answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipadapter_demo.cli.options import MODEL_OPTIONS, PROGRAM, Arguments, command_parser
from ipadapter_demo.errors import DemoError, ModelError, RequestError
from ipadapter_demo.models.sources import announced
from ipadapter_demo.settings import (
    Settings,
    load_options,
    resolved_device,
    settings_from_args,
    without_additions,
)

if TYPE_CHECKING:
    from ipadapter_demo.pipeline import ImagePromptPipeline
    from ipadapter_demo.serving import ModelManager

Load = Callable[..., "ImagePromptPipeline"]


def main(argv: Sequence[str] | None = None, load: Load | None = None) -> int:
    """Run a command (argv None: this process's) and return its exit status.

    2 stands for whatever the caller can put right: one line on stderr says what. `load` takes the
    place of `ipadapter_demo.pipeline.load`.
    """
    arguments = command_parser().parse_args(argv)
    try:
        COMMANDS[arguments.command](arguments, load or _load_quietly)
    except DemoError as error:
        return _failed(arguments, str(error))
    except OSError as error:
        return _failed(arguments, f"{error.filename or arguments.out}: {error.strerror or error}")
    except KeyboardInterrupt:
        return 130
    return 0


def generate(arguments: Arguments, load: Load) -> None:
    from ipadapter_demo.cli.translate import completed, free_path, given_fields
    from ipadapter_demo.record import record_from_png, save_png
    from ipadapter_demo.request import GenerateRequest

    record = record_from_png(arguments.from_png) if arguments.from_png else None
    given = given_fields(arguments)  # read before the model is: a wrong path shows at once
    arguments.out.mkdir(parents=True, exist_ok=True)
    pipeline = _loaded(arguments, load, record.provenance.get("model") if record else None)
    start = record.request if record else GenerateRequest(**pipeline.info.recommended(given))
    request = completed(replace(start, **given), pipeline.info, arguments)
    result = pipeline.generate(request)
    for note in result.warnings:
        print(note, file=sys.stderr)
    for index, (image, seed) in enumerate(zip(result.images, result.seeds, strict=True)):
        path = free_path(arguments.out, str(seed))
        save_png(path, image, result.request, seed, index, result.provenance)
        _print(path=str(path), seed=seed, seconds=round(result.seconds, 3))


def compare(arguments: Arguments, load: Load) -> None:
    from ipadapter_demo.cli import comparison

    if arguments.schema:
        comparison.print_schema()
    elif arguments.verify is not None:
        bundle = comparison.bundle_of(arguments)
        comparison.verify(bundle, _manager(arguments, load, **comparison.made_with(bundle)))
    else:
        spec = comparison.spec_of(arguments)
        manager = _manager(arguments, load, model=spec.comparison.model)
        comparison.draw(arguments, spec, manager)


def render(arguments: Arguments, _: Load) -> None:
    from ipadapter_demo.tabletop.files import pictures_of, write_scenes, write_shards

    if arguments.shards:
        from ipadapter_demo.tabletop.scene import sample_scenes

        scenes = sample_scenes(arguments.count, arguments.seed)
        drawn = pictures_of(scenes, arguments.size)
        for path in write_shards(arguments.out, scenes, drawn, arguments.seed):
            _print(path=str(path))
        return
    entries = write_scenes(
        arguments.out, arguments.count, arguments.seed, arguments.size, arguments.maps
    )
    path = arguments.out / "scene.json"
    path.write_text(json.dumps(entries, indent=1) + "\n")
    _print(path=str(path), scenes=len(entries))


def evaluate(arguments: Arguments, load: Load) -> None:
    if arguments.protocol == "coco":
        _evaluate_coco(arguments)
        return
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    pipeline = _loaded(arguments, load)

    from ipadapter_demo.evaluation.drawing import drawn_by, drawn_by_workers, kept_in
    from ipadapter_demo.evaluation.report import evaluate as report_on
    from ipadapter_demo.tabletop.scene import HELD_OUT_SEED

    same = load_options(_settings(arguments))
    same |= _loaded_as(pipeline)
    several = arguments.workers > 1
    seed = HELD_OUT_SEED if arguments.seed is None else arguments.seed
    with (
        drawn_by_workers(arguments.workers, **same) if several else nullcontext(drawn_by(pipeline))
    ) as draw:
        if arguments.keep is not None:
            draw = kept_in(arguments.keep, draw, pipeline.provenance)
        report = report_on(pipeline, arguments.scenes, seed, draw=draw, progress=_progress)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    _print(path=str(arguments.out))


def _loaded_as(pipeline: ImagePromptPipeline) -> dict[str, Any]:
    """What makes a worker's pipeline the same: settings that were left open are decided by now."""
    return {name: pipeline.provenance[name] for name in ("model", "device", "dtype")}


def _evaluate_coco(arguments: Arguments) -> None:
    from ipadapter_demo.evaluation.coco import Protocol, evaluate_coco, items_of

    for name in ("images", "captions", "clip"):
        if getattr(arguments, name) is None:
            raise RequestError(f"evaluate coco needs --{name}")
    settings = _settings(arguments)
    protocol = Protocol(
        samples=arguments.samples,
        steps=arguments.steps,
        guidance=arguments.guidance,
        sampler=arguments.sampler,
        seed=arguments.seed or 0,
    )
    items = items_of(arguments.images, arguments.captions, arguments.limit)
    report = evaluate_coco(
        items,
        {"model": settings.model, **load_options(settings)},
        arguments.clip,
        protocol,
        arguments.out,
        arguments.workers,
        arguments.gpus,
        _progress,
    )
    _print(
        path=str(arguments.out / "report.json"), clip_i=report["clip_i"], clip_t=report["clip_t"]
    )


def models(arguments: Arguments, _: Load) -> None:
    from ipadapter_demo.models.catalog import TABLETOP
    from ipadapter_demo.models.published import listing

    _print(name=TABLETOP.name, note=TABLETOP.note, present=True, licence="Apache-2.0")
    settings = settings_from_args([])
    where = arguments.models_dir or settings.models_dir
    for row in listing(None if where is None else Path(where)):
        _print(**row)


def sheets(arguments: Arguments, load: Load) -> None:
    from ipadapter_demo.evaluation.sheets import draw_sheets

    for path in draw_sheets(_loaded(arguments, load), arguments.out):
        _print(path=str(path))


def claims(arguments: Arguments, load: Load) -> None:
    from ipadapter_demo.claims import page, shipped, studies

    if arguments.study in studies.STUDIES:
        from ipadapter_demo.claims.testbed import open_testbed

        record = studies.STUDIES[arguments.study](open_testbed(arguments.runs), _progress)
    else:
        from ipadapter_demo.evaluation.drawing import drawn_by_workers

        pipeline = load("tabletop", dtype=arguments.dtype)
        with drawn_by_workers(arguments.workers, **_loaded_as(pipeline)) as draw:
            record = shipped.SHIPPED[arguments.study](pipeline.info, draw, _progress)
        record |= {"dtype": pipeline.provenance["dtype"]}
    for path in page.publish(arguments.study, record, arguments.docs):
        _print(path=str(path))


def train(arguments: Arguments, _: Load) -> None:
    import logging

    import torch

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("accelerate").setLevel(logging.WARNING)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    if (
        arguments.part == "structure"
        or getattr(arguments, "config", None)
        or getattr(arguments, "data", None)
    ):
        _print(part=arguments.part, **_train_on_pictures(arguments))
        return
    from ipadapter_demo.training import recipes
    from ipadapter_demo.training.config import TrainingConfig, field_from

    steps = arguments.steps
    if steps is not None:
        steps = field_from(TrainingConfig, "steps", steps)
    provenance = recipes.train(
        arguments.part,
        arguments.runs,
        Path(arguments.out or recipes.OUT),
        steps=steps,
        device=resolved_device(arguments.device or None),
        pictures=arguments.pictures or recipes.PICTURES,
        **_given_fields(arguments),
    )
    _print(part=arguments.part, **provenance)


def _given_fields(arguments: Arguments) -> dict[str, Any]:
    """What flags say of a recipe's config, besides what every recipe takes."""
    if arguments.part != "image-adapter":
        return {}
    from dataclasses import fields

    from ipadapter_demo.training.config import ImageAdapterConfig

    taken = ("steps", "out", "device", "data", "resume")
    return {
        f.name: value
        for f in fields(ImageAdapterConfig)
        if f.name not in taken and (value := getattr(arguments, f.name)) is not None
    }


def _train_on_pictures(arguments: Arguments) -> dict[str, Any]:
    from ipadapter_demo.training import image_adapter, structure
    from ipadapter_demo.training.config import (
        ImageAdapterConfig,
        StructureConfig,
        config_from_arguments,
    )

    if arguments.part == "structure":
        return structure.train_structure(config_from_arguments(StructureConfig, arguments))
    return image_adapter.train_image_adapter(config_from_arguments(ImageAdapterConfig, arguments))


COMMANDS: dict[str, Callable[[Arguments, Load], None]] = {
    "generate": generate,
    "compare": compare,
    "models": models,
    "render": render,
    "evaluate": evaluate,
    "sheets": sheets,
    "claims": claims,
    "train": train,
}


def _print(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _failed(arguments: Arguments, message: str) -> int:
    print(f"{PROGRAM} {arguments.command}: {message}", file=sys.stderr)
    return 2


def _loaded(arguments: Arguments, load: Load, recorded: object = None) -> ImagePromptPipeline:
    """The model asked for, or the one that made a recorded picture, or the environment's."""
    settings = _settings(arguments, model=recorded)
    pipeline = load(settings.model, **load_options(settings), report=announced(_progress))
    if pipeline.schedule_note:
        _progress(f"{settings.model}: {pipeline.schedule_note}")
    return pipeline


def _manager(arguments: Arguments, load: Load, **recorded: object) -> ModelManager:
    """The same, and every other model of the catalogue as well."""
    from ipadapter_demo.models.published import labels
    from ipadapter_demo.pipeline import prepare
    from ipadapter_demo.serving import ModelManager

    settings = _settings(arguments, **recorded)
    others = without_additions(settings)
    return ModelManager(
        load(settings.model, **load_options(settings), report=announced(_progress)),
        lambda name, report: prepare(
            name, **load_options(settings if name == settings.model else others), report=report
        ),
        labels(settings.models_dir),
    )


def _settings(arguments: Arguments, **recorded: object) -> Settings:
    """Flags, then what made a recorded picture, then the environment."""
    flags: dict[str, Any] = {n: value for n, value in recorded.items() if isinstance(value, str)}
    flags |= {name: getattr(arguments, name) for name in MODEL_OPTIONS if getattr(arguments, name)}
    try:
        return replace(settings_from_args([]), **flags)
    except ValueError as error:
        raise ModelError(str(error)) from error


def _load_quietly(model: str, **options: Any) -> ImagePromptPipeline:
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()

    from ipadapter_demo.pipeline import load

    return load(model, **options)
