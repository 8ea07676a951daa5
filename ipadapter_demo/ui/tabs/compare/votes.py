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
from ipadapter_demo.compare.votes import Answer, Ballot, ballot, shares, votes_csv
from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import read_image
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.ui.run.errors import shown_errors
from ipadapter_demo.ui.run.running import AT_ONCE, REFUSABLE
from ipadapter_demo.ui.run.say import escaped
from ipadapter_demo.ui.run.tab import Update

ANSWERS: dict[Answer, str] = {
    "left": "The left one",
    "right": "The right one",
    "neither": "Cannot say",
}

# As soon as the pictures above have their height.
IN_SIGHT = """() => {
    const buttons = document.querySelector(".vote");
    setTimeout(() => buttons.scrollIntoView({ behavior: "smooth", block: "center" }), 300);
    return [];
}"""


def build(job: gr.State) -> tuple[gr.Dropdown, gr.Dropdown]:
    """Below a grid: which of two columns is better, picture by picture, with the sides hidden.
    Returns the choices of the columns: see `column_choices`."""
    found = gr.State(None)
    with gr.Accordion("Blind vote", open=False):
        gr.Markdown("Two columns, row by row, in a shuffled order and on shuffled sides.")
        with gr.Row(equal_height=True):
            one = gr.Dropdown([], label="Column", min_width=120)
            other = gr.Dropdown([], label="against column", min_width=120)
            begin = gr.Button("Begin", size="sm", min_width=80)
        said = gr.HTML("", elem_classes="status")
        with gr.Row():
            pictures = [_picture(side) for side in ("Reference", "Left", "Right")]
        with gr.Row(elem_classes="vote"):
            buttons = {
                answer: gr.Button(label, interactive=False, min_width=100)
                for answer, label in ANSWERS.items()
            }
        votes = gr.File(label="Votes", interactive=False, visible=False)
    outputs = [found, *pictures, *buttons.values(), said, votes]

    def shown(job: Job, now: Ballot, over: bool = False) -> Update:
        pair, done = None if over else now.next, len(now.answers)
        enabled = {button: gr.Button(interactive=pair is not None) for button in buttons.values()}
        if pair is None:
            return enabled | {
                found: None,
                **dict.fromkeys(pictures),
                said: results_html(job, now),
                votes: gr.File(_saved(votes_csv(job, now)), visible=True),
            }
        cells = (pair.left, pair.right)
        images = [read_image(job.path(cell)).convert("RGB") for cell in cells]
        references = pair.left.request.references
        return enabled | {
            found: (job, now),
            **dict(
                zip(pictures, [references[0].image if references else None, *images], strict=True)
            ),
            said: f"{question(pair.left.request)} {done + 1} of {len(now.pairs)}.",
            votes: gr.File(visible=False),
        }

    def started(job: Job | None, one: int | None, other: int | None) -> Update:
        with shown_errors():
            if job is None or one is None or other is None:
                raise RequestError("there is no comparison to vote on yet")
            return shown(job, ballot(job, one, other, random.randrange(2**32)))

    def answered(answer: Answer) -> Callable[[Job | None, tuple[Job, Ballot] | None], Update]:
        def count(job: Job | None, voted: tuple[Job, Ballot] | None) -> Update:
            """The vote is on the pictures that it began with."""
            if voted is None:
                return {}
            own, now = voted
            with shown_errors():
                return shown(own, now.answered(answer), over=not _same(own, job))

        return count

    begun = begin.click(started, inputs=[job, one, other], outputs=outputs, **REFUSABLE)
    begun.success(None, js=IN_SIGHT, **AT_ONCE)
    for answer, button in buttons.items():
        button.click(answered(answer), inputs=[job, found], outputs=outputs, **REFUSABLE)
    return one, other


def _same(own: Job, job: Job | None) -> bool:
    """True if the job draws the pictures of the vote's own, and no other in the place of one."""
    return job is not None and (job.folder, job.plan.spec) == (own.folder, own.plan.spec)


def column_choices(job: Job) -> list[tuple[str, int]]:
    """(head, number) of the columns of which something is drawn."""
    heads = {cell.column: job.plan.grid.heads(cell)[2] for cell in job.finished()}
    return [(printable(head)[:60], number) for number, head in sorted(heads.items())]


def question(request: GenerateRequest) -> str:
    """To ask of two pictures of a row."""
    prompt = f"“{escaped(request.prompt[:200])}”" if request.prompt else ""
    wanted = prompt or "the reference"
    if not request.references and not prompt:
        return "Which is better?"
    if request.references and prompt:
        wanted = f"the reference and {prompt}"
    return f"Which one follows {wanted} better?"


def results_html(job: Job, found: Ballot) -> str:
    """The shares of a vote that has ended."""
    lines = []
    for one in shares(job, found):
        head, (low, high) = escaped(printable(one.head)[:60]), one.interval
        lines.append(
            f"{head}: {one.votes} of {one.decided}, {one.value:.0%} (95 % interval {low:.0%} to "
            f"{high:.0%})"
        )
    undecided, count = found.answers.count("neither"), len(found.answers)
    ended = f"The comparison has changed: the vote ends after {count} of {len(found.pairs)}."
    done = "Done." if found.next is None else ended
    return "<br>".join([done, *lines, *([f"Cannot say: {undecided}"] if undecided else [])])


def _picture(label: str) -> gr.Image:
    return gr.Image(
        label=label,
        format="png",
        interactive=False,
        buttons=[],
        elem_classes="filled",
        height=220,
        min_width=80,
    )


def _saved(votes: str) -> str:
    path = Path(get_upload_folder()) / secrets.token_hex(16) / "votes.csv"
    path.parent.mkdir(parents=True)
    path.write_text(votes, encoding="utf-8")
    return str(path)
