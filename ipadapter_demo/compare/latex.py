"""The lines that put a comparison's figure into a paper."""

from __future__ import annotations

from collections.abc import Container, Sequence

from ipadapter_demo.compare.axes import all_axes, head_of
from ipadapter_demo.compare.grid import Cell, Grid
from ipadapter_demo.compare.spec import Spec
from ipadapter_demo.compare.text import beyond_pdflatex, latex, listed
from ipadapter_demo.lora import texts_from_loras

OTHER_SCRIPTS = r"""% The caption has letters that pdfLaTeX stops at: take XeLaTeX or LuaLaTeX with
% a font that has them; for Chinese, Japanese and Korean
% \usepackage{xeCJK} \setCJKmainfont{Noto Serif CJK SC}
"""


def snippet(spec: Spec, grid: Grid) -> str:
    """A LaTeX `figure` for every page, with a caption written from the spec."""
    wide = spec.comparison.figure.width == "double"
    kind, width = ("figure*", r"\textwidth") if wide else ("figure", r"\columnwidth")
    captions = [caption(spec, grid, number) for number in range(1, len(grid.pages) + 1)]
    figures = [
        f"\\begin{{{kind}}}[t]\n"
        "  \\centering\n"
        f"  \\includegraphics[width={width}]{{figure-p{number}.pdf}}\n"
        f"  \\caption{{{said}}}\n"
        f"  \\label{{fig:comparison-p{number}}}\n"
        f"\\end{{{kind}}}\n"
        for number, said in enumerate(captions, 1)
    ]
    return "\n".join([*([OTHER_SCRIPTS] if beyond_pdflatex("".join(captions)) else []), *figures])


def caption(spec: Spec, grid: Grid, number: int) -> str:
    """The caption in LaTeX: what differs, and the settings that all cells share."""
    page, comparison = grid.pages[number - 1], spec.comparison
    said = [comparison.title, page.label]
    if any(page.row_heads):
        said.append(f"Rows: {listed(page.row_heads)}")
    said.append(f"Columns: {listed(page.column_heads)}")
    if comparison.figure.zoom:
        said.append("The marked part of each picture is shown larger in its corner")
    cells, differs = page.cells, all_axes(comparison)
    if shared := _shared_settings(cells, differs):
        said.append(f"All by {', '.join(shared)}")
    if comparison.redraw and "seed" not in differs:
        said.append("Redrawn cells have seeds of their own")
    elif "seed" not in differs and len({_origin(cell) for cell in cells}) == 1:
        said.append("Every picture starts from the same noise")
    return " ".join(f"{latex(text).rstrip('.')}." for text in said if text)


def _shared_settings(cells: Sequence[Cell], differs: Container[str]) -> list[str]:
    """What is the same in every cell, and no axis: an axis may change more than its own field, as
    `method` changes λ and the prompt."""
    guided = any(cell.planned.guidance > 1 for cell in cells)
    first, *others = (_settings(cell, guided) for cell in cells)
    return [
        text
        for name, text in first.items()
        if text and name not in differs and all(text == other[name] for other in others)
    ]


def _settings(cell: Cell, guided: bool) -> dict[str, str]:
    """By field, in words."""
    request = cell.planned
    schedule, window, upscale = request.noise_schedule, request.guidance_window, request.upscale
    return {
        "model": cell.model,
        "steps": "1 step" if request.steps == 1 else f"{request.steps} steps",
        "sampler": request.sampler,
        "noise_schedule": {"default": ""}.get(schedule, f"{schedule} noise levels"),
        "guidance": f"guidance {request.guidance:g}",
        "guidance_window": head_of("guidance_window", window)
        if guided and window != (0, 1)
        else "",
        "image_scale": f"λ = {request.image_scale:g}",
        "loras": " and ".join(f"the LoRA {text}" for text in texts_from_loras(request.loras)),
        "vae": f"the VAE {request.vae}" if request.vae else "",
        "upscale": f"two passes, the second × {upscale.factor:g}" if upscale else "",
        "upscale_strength": head_of("upscale_strength", upscale.strength) if upscale else "",
        "seed": f"seed {request.seed}",
        "prompt": f"the prompt “{request.prompt}”" if request.prompt else "",
    }


def _origin(cell: Cell) -> tuple[object, ...]:
    """What the size of a picture comes from, and so its noise."""
    request, begun_from = cell.planned, cell.planned.init_image
    return cell.model, request.width, request.height, begun_from and begun_from.size
