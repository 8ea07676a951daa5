"""The lines that put a comparison's figure into a paper."""

from __future__ import annotations

from ipadapter_demo.compare.axes import all_axes, head_of
from ipadapter_demo.compare.grid import Grid
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
    first = next(cell for cell in grid.cells if cell.page == number)
    differs, schedule = all_axes(comparison), first.planned.noise_schedule
    window, upscale = first.planned.guidance_window, first.planned.upscale
    windowed = window != (0, 1) and (first.planned.guidance > 1 or "guidance" in differs)
    shared = {
        "model": first.model,
        "steps": "1 step" if first.planned.steps == 1 else f"{first.planned.steps} steps",
        "sampler": first.planned.sampler,
        "noise_schedule": {"default": ""}.get(schedule, f"{schedule} noise levels"),
        "guidance": f"guidance {first.planned.guidance:g}",
        "guidance_window": head_of("guidance_window", window) if windowed else "",
        "image_scale": f"λ = {first.planned.image_scale:g}" if not comparison.beside else "",
        "loras": " and ".join(f"the LoRA {text}" for text in texts_from_loras(first.planned.loras)),
        "vae": f"the VAE {first.planned.vae}" if first.planned.vae else "",
        "upscale": f"two passes, the second × {upscale.factor:g}" if upscale else "",
        "upscale_strength": head_of("upscale_strength", upscale.strength) if upscale else "",
        "seed": f"seed {first.planned.seed}",
        "prompt": f"the prompt “{first.planned.prompt}”" if first.planned.prompt else "",
    }
    shared_settings = [text for name, text in shared.items() if text and name not in differs]
    if shared_settings:
        said.append(f"All by {', '.join(shared_settings)}")
    if "seed" not in differs:
        said.append(
            "Every picture starts from the same noise"
            if not comparison.redraw
            else "Redrawn cells have seeds of their own"
        )
    return " ".join(f"{latex(text).rstrip('.')}." for text in said if text)
