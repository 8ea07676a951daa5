"""A blind vote over a comparison."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from ipadapter_demo.compare import Job
from ipadapter_demo.compare.text import printable
from ipadapter_demo.compare.votes import Answer, Ballot, ballot, tally, votes_csv
from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import read_image
from ipadapter_demo.ui.run.errors import shown_errors
from ipadapter_demo.ui.run.running import AT_ONCE
from ipadapter_demo.ui.run.say import escaped
from ipadapter_demo.ui.run.tab import Update

ANSWERS: dict[Answer, str] = {
    "left": "The left one",
    "right": "The right one",
    "neither": "Cannot say",
}


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

    def shown(job: Job, now: Ballot) -> Update:
        pair, done = now.next, len(now.answers)
        enabled = {button: gr.Button(interactive=pair is not None) for button in buttons.values()}
        if pair is None:
            counts = ", ".join(f"{printable(h)[:60]}: {n}" for h, n in tally(job, now).items())
            return enabled | {
                found: now,
                **dict.fromkeys(pictures),
                said: f"Done. {escaped(counts)}.",
                votes: _saved(votes_csv(job, now)),
            }
        cells = (pair.left, pair.right)
        images = [read_image(job.path(cell)).convert("RGB") for cell in cells]
        return enabled | {
            found: now,
            **dict(zip(pictures, images, strict=True)),
            said: f"Which one is better? {done + 1} of {len(now.pairs)}.",
            votes: None,
        }

    def started(job: Job | None, one: int, other: int) -> Update:
        with shown_errors():
            if job is None:
                raise RequestError("there is no comparison to vote on yet")
            return shown(job, ballot(job, one, other, random.randrange(2**32)))

    def answered(answer: Answer) -> Callable[[Job, Ballot], Update]:
        def count(job: Job, now: Ballot) -> Update:
            with shown_errors():
                return shown(job, now.answered(answer))

        return count

    begin.click(started, inputs=[job, one, other], outputs=outputs, **AT_ONCE)
    for answer, button in buttons.items():
        button.click(answered(answer), inputs=[job, found], outputs=outputs, **AT_ONCE)


def _saved(votes: str) -> str:
    path = Path(get_upload_folder()) / secrets.token_hex(16) / "votes.csv"
    path.parent.mkdir(parents=True)
    path.write_text(votes, encoding="utf-8")
    return str(path)
