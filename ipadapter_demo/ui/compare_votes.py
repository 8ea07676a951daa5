"""A blind vote over a comparison."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gradio as gr
from gradio.utils import get_upload_folder

from ipadapter_demo.compare import Job
from ipadapter_demo.compare.text import printable
from ipadapter_demo.compare.votes import Answer, Ballot, ballot, tally, votes_csv
from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import read_image
from ipadapter_demo.ui.running import AT_ONCE, shown_errors
from ipadapter_demo.ui.say import escaped

ANSWERS = {"left": "The left one", "right": "The right one", "neither": "Cannot say"}


def build(job: gr.State) -> None:
    """Below a grid: which of two columns is better, picture by picture, with the sides hidden."""
    found = gr.State(None)
    with gr.Accordion("Blind vote", open=False):
        gr.Markdown("Two columns, row by row, in a shuffled order and on shuffled sides.")
        with gr.Row():
            one = gr.Number(1, label="Column", precision=0, minimum=1)
            other = gr.Number(2, label="against column", precision=0, minimum=1)
            begin = gr.Button("Begin", size="sm")
        with gr.Row():
            pictures = [
                gr.Image(
                    label=side,
                    format="png",
                    interactive=False,
                    buttons=[],
                    elem_classes="filled",
                    height=240,
                )
                for side in ("Left", "Right")
            ]
        with gr.Row():
            buttons = {
                answer: gr.Button(label, interactive=False) for answer, label in ANSWERS.items()
            }
        said = gr.HTML("", elem_classes="status")
        votes = gr.File(label="Votes", interactive=False)
    outputs = [found, *pictures, *buttons.values(), said, votes]

    def started(job: Job | None, one: int, other: int) -> list[Any]:
        with shown_errors():
            if job is None:
                raise RequestError("there is no comparison to vote on yet")
            return _shown(job, ballot(job, one, other, random.randrange(2**32)))

    def answered(answer: str) -> Callable[..., list[Any]]:
        def note(job: Job, ballot: Ballot) -> list[Any]:
            return _shown(job, ballot.answered(cast(Answer, answer)))

        return note

    begin.click(started, inputs=[job, one, other], outputs=outputs, **AT_ONCE)
    for answer, button in buttons.items():
        button.click(answered(answer), inputs=[job, found], outputs=outputs, **AT_ONCE)


def _shown(job: Job, found: Ballot) -> list[Any]:
    """Ballot, left and right picture, the three buttons, what to say, the file of votes."""
    pair, done = found.next, len(found.answers)
    if pair is not None:
        images = [read_image(job.path(cell)).convert("RGB") for cell in (pair.left, pair.right)]
        return [
            found,
            *images,
            *[gr.Button(interactive=True)] * 3,
            f"Which one is better? {done + 1} of {len(found.pairs)}.",
            None,
        ]
    folder = Path(get_upload_folder()) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    path = folder / "votes.csv"
    path.write_text(votes_csv(job, found), encoding="utf-8")
    counts = ", ".join(f"{printable(head)[:60]}: {n}" for head, n in tally(job, found).items())
    return [
        found,
        None,
        None,
        *[gr.Button(interactive=False)] * 3,
        f"Done. {escaped(counts)}.",
        str(path),
    ]
