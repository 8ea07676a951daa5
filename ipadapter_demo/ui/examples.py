"""Rows to click on, from assets/examples; clicking fills the widgets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ipadapter_demo.imaging import flatten_image, flatten_mask, read_image
from ipadapter_demo.ui.uploads import Painting, editor_value_from_painting

FOLDER = Path(__file__).parents[2] / "assets" / "examples"


def examples(inputs: Sequence[gr.Component], rows: Sequence[Sequence[Any]]) -> None:
    """Pictures are named by file, a picture with its mask by a pair of files. Rows whose files are
    missing, or whose choices this model does not offer, are left out."""
    usable = [row for row in rows if all(map(_offered, inputs, row))]
    if usable:
        gr.Examples(
            [[_value(cell) for cell in row] for row in usable],
            inputs=list(inputs),
            label="Examples",
            api_visibility="private",
        )
        for component in inputs:  # else they are deleted like visitors' files, after a day
            component.keep_in_cache.update(component.temp_files)


def _offered(component: gr.Component, cell: Any) -> bool:
    if isinstance(component, gr.Dropdown):
        return cell in [value for _, value in component.choices]
    return all((FOLDER / name).is_file() for name in _files(cell))


def _files(cell: Any) -> tuple[str, ...]:
    if isinstance(cell, tuple):
        return cell
    return (cell,) if isinstance(cell, str) and cell.endswith(".png") else ()


def _value(cell: Any) -> Any:
    paths = [FOLDER / name for name in _files(cell)]
    if len(paths) == 2:
        image, mask = (read_image(path) for path in paths)
        return editor_value_from_painting(Painting(flatten_image(image), flatten_mask(mask)))
    return str(paths[0]) if paths else cell
