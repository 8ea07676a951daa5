"""Sheets to judge by eye: unselected held-out scenes, one sheet for each thing the demo does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ipadapter_demo.evaluation.contact_sheet import contact_sheet, stacked
from ipadapter_demo.models.annotators import annotate
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.request import GenerateRequest, Inpaint, Reference, Structure
from ipadapter_demo.tabletop.caption import floor_caption
from ipadapter_demo.tabletop.erase import masks_over_first
from ipadapter_demo.tabletop.files import pictures_of
from ipadapter_demo.tabletop.scene import Scenes, sample_scenes

SHEET_SEED = 910_001  # held out, and apart from the scenes of the report
CELL, GAP, HEAD = 128, 4, 18
SCALES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
ROWS = 6
VARIED = 8  # references of the sheet of variations, and pictures of each
OVERVIEW_COLUMNS = 6
SAVED: Any = {"quality": 85, "method": 6}  # a fifth of a PNG's size, and no difference to the eye

Row = list[Image.Image]


def draw_sheets(pipeline: ImagePromptPipeline, out: Path, seed: int = SHEET_SEED) -> list[Path]:
    """Write every sheet as a WebP into `out`, and an overview with a row of each; the paths."""
    scenes = sample_scenes(2 * ROWS, seed)
    references = list(pictures_of(scenes, CELL))
    out.mkdir(parents=True, exist_ok=True)
    drawn = [out / "overview.webp"]
    tops = []
    for number, (name, sheet) in enumerate(SHEETS.items()):
        heads, rows = sheet(pipeline, scenes, references)
        tops.append(grid(heads[:OVERVIEW_COLUMNS], [rows[number]]))  # another scene each time
        drawn.append(out / f"{name}.webp")
        grid(heads, rows).save(drawn[-1], **SAVED)
    stacked(tops).save(drawn[0], **SAVED)
    return drawn


def grid(heads: Sequence[str], rows: Sequence[Row]) -> Image.Image:
    """Cells of one size under column heads."""
    sheet = contact_sheet([row[: len(heads)] for row in rows], CELL, GAP, HEAD)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for column, head in enumerate(heads):
        x = GAP + column * (CELL + GAP)
        pen.text((x + CELL / 2, HEAD / 2), head, fill="black", font=font, anchor="mm")
    return sheet


def _generate(pipeline: ImagePromptPipeline, **parts: Any) -> Row:
    defaults = pipeline.info.recommended.fields_beside(parts) | {"seed": 1}
    return list(pipeline.generate(GenerateRequest(**defaults | parts)).images)


def variations(
    pipeline: ImagePromptPipeline, scenes: Scenes, references: Row
) -> tuple[list[str], list[Row]]:
    rows = [
        [image, *_generate(pipeline, references=(Reference(image=image),), count=VARIED)]
        for image in references[:VARIED]
    ]
    return ["reference", *(f"seed {seed}" for seed in range(1, VARIED + 1))], rows


def image_scale(
    pipeline: ImagePromptPipeline, scenes: Scenes, references: Row
) -> tuple[list[str], list[Row]]:
    rows = []
    for image in references[:ROWS]:
        sweep = [
            _generate(pipeline, references=(Reference(image=image),), image_scale=scale)[0]
            for scale in SCALES
        ]
        rows.append([image, *sweep])
    return ["reference", *(f"scale {scale:g}" for scale in SCALES)], rows


def image_and_text(
    pipeline: ImagePromptPipeline, scenes: Scenes, references: Row
) -> tuple[list[str], list[Row]]:
    prompts = [floor_caption(scenes, ROWS + column) for column in range(4)]
    rows = [
        [
            image,
            *(
                _generate(pipeline, references=(Reference(image=image),), prompt=prompt)[0]
                for prompt in prompts
            ),
        ]
        for image in references[:ROWS]
    ]
    return ["reference", *(prompt.removeprefix("on a ") for prompt in prompts)], rows


def structure(
    pipeline: ImagePromptPipeline, scenes: Scenes, references: Row
) -> tuple[list[str], list[Row]]:
    rows = []
    for index in range(ROWS):
        reference, source = references[index], references[ROWS + index]
        edges, palette = annotate("canny", source), annotate("palette", source)
        parts: dict[str, Any] = {"references": (Reference(image=reference),)}
        rows.append(
            [
                reference,
                edges,
                *_generate(
                    pipeline, structures=(Structure(kind="canny", image=edges),), **parts, count=2
                ),
                palette,
                *_generate(
                    pipeline, structures=(Structure(kind="palette", image=palette),), count=2
                ),
            ]
        )
    return ["reference", "edges", "both", "both", "palette", "palette only", "palette only"], rows


def inpainting(
    pipeline: ImagePromptPipeline, scenes: Scenes, references: Row
) -> tuple[list[str], list[Row]]:
    rows = []
    masks = masks_over_first(scenes[:ROWS], references[0].width)
    for image, mask, reference in zip(references[:ROWS], masks, references[ROWS:], strict=True):
        shown = image.copy()
        shown.paste((255, 255, 255), mask=mask)
        inpaint = Inpaint(image=image, mask=mask, **pipeline.info.recommended.inpainting)
        rows.append(
            [
                image,
                shown,
                reference,
                *_generate(
                    pipeline, references=(Reference(image=reference),), inpaint=inpaint, count=3
                ),
            ]
        )
    return ["picture", "mask", "reference", "seed 1", "seed 2", "seed 3"], rows


SHEETS: dict[str, Callable[..., tuple[list[str], list[Row]]]] = {
    "variations": variations,
    "image-scale": image_scale,
    "image-and-text": image_and_text,
    "structure": structure,
    "inpainting": inpainting,
}
