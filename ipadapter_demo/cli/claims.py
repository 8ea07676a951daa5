"""The `claims` command."""

from __future__ import annotations

import argparse
from pathlib import Path

from ipadapter_demo.cli.command import Arguments, Command, Load, positive, print_line, progress
from ipadapter_demo.cli.model import precision_of
from ipadapter_demo.errors import RequestError
from ipadapter_demo.load_options import DTYPES

# Those of claims/, which would import torch; a test compares them.
STUDIES = ("data", "methods", "tuning", "scale", "transfer", "structure", "plus")


TEXT = """\
Measure what the paper claims, in miniature: its figures go into docs/claims.md, docs/claims/*.json
and *.webp. The first five train methods on pictures of half the size, for hours, and resume.
  data       fidelity against steps, for 1 %, 10 % and all of the pictures
  methods    the image adapter beside other ways to give a picture to a model
  tuning     the same methods with other learning rates
  scale      λ from 0 to 1.5: the picture against the words
  transfer   the same adapter on a base fine-tuned to another look
  structure  with ControlNet and T2I-Adapters, alone and together
  plus       16 tokens against 4: fidelity against freedom
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("study", choices=STUDIES, metavar="STUDY", help="one of the above")
    add(
        "--runs",
        type=Path,
        metavar="DIR",
        help="folder for rendered pictures and trainings [runs/claims]",
    )
    add("--docs", type=Path, default=Path("docs"), metavar="DIR", help="where claims.md is [docs]")
    add(
        "--workers",
        type=positive,
        metavar="N",
        help="processes that draw with the shipped model [1]",
    )
    add("--dtype", choices=DTYPES, help="in which it draws [auto]")


def run(arguments: Arguments, load: Load) -> None:
    from ipadapter_demo.claims import page, shipped, studies

    trains = arguments.study in studies.STUDIES
    for name in ("workers", "dtype") if trains else ("runs",):
        if getattr(arguments, name) is not None:
            drawn = " and ".join(f"claims {study}" for study in shipped.SHIPPED)
            others = f"{drawn} alone" if trains else f"studies that train, and not with {drawn}"
            raise RequestError(f"--{name} goes with {others}")
    page.check(arguments.study, arguments.docs)
    if trains:
        from ipadapter_demo.claims.testbed import open_testbed

        testbed = open_testbed(arguments.runs or Path("runs/claims"))
        record = studies.STUDIES[arguments.study](testbed, progress)
    else:
        from ipadapter_demo.evaluation.drawing import drawn_by_workers

        pipeline = load("tabletop", dtype=arguments.dtype or "auto")
        workers = arguments.workers or 1
        with drawn_by_workers(workers, model="tabletop", **precision_of(pipeline)) as draw:
            record = shipped.SHIPPED[arguments.study](pipeline.info, draw, progress)
        record |= {"dtype": pipeline.provenance["dtype"]}
    for path in page.publish(arguments.study, record, arguments.docs):
        print_line(path=str(path))


COMMAND = Command("measure what the paper claims", TEXT, add_options, run)
