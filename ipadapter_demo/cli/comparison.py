"""A comparison on the command line: drawn, or verified."""

from __future__ import annotations

import json
import sys

from ipadapter_demo.cli.command import Arguments, print_line
from ipadapter_demo.compare import (
    Bundle,
    ComparisonWarning,
    Done,
    Event,
    Failed,
    Pace,
    Plan,
    Spec,
    carry_out,
    spec_from_file,
)
from ipadapter_demo.compare.bundle import MAX_GREY_LEVELS
from ipadapter_demo.compare.comparison import ComparisonSpec
from ipadapter_demo.compare.schema import json_schema
from ipadapter_demo.errors import RequestError
from ipadapter_demo.serving import ModelManager


def print_schema() -> None:
    print(json.dumps(json_schema(ComparisonSpec), indent=1))


def spec_of(arguments: Arguments) -> Spec:
    if arguments.spec is None:
        raise RequestError("a spec is missing: compare SPEC, or compare --verify BUNDLE")
    return spec_from_file(arguments.spec)


def bundle_of(arguments: Arguments) -> Bundle:
    if arguments.spec is not None:
        raise RequestError(f"--verify takes a bundle and no spec, got {arguments.spec}")
    return Bundle(arguments.verify)


def made_with(bundle: Bundle) -> dict[str, object]:
    """Model, device and precision of a bundle's cells, as settings name them."""
    first = bundle.spec.comparison.model
    provenance = bundle.manifest.models.get(first or "", {})
    return {"model": first, "device": provenance.get("device"), "dtype": provenance.get("dtype")}


def draw(arguments: Arguments, spec: Spec, manager: ModelManager) -> None:
    plan = Plan(spec, manager)
    cost = Pace().cost(plan)
    print(cost, file=sys.stderr)
    if arguments.cost:
        print_line(
            cells=cost.cells,
            steps=cost.steps,
            seconds=round(cost.seconds, 1),
            unknown=cost.unknown,
            refused=cost.refused,
        )
        return
    failed = []
    noted: set[str] = set()

    def report(event: Event) -> None:
        if isinstance(event, Done):
            for note in event.warnings:
                if note not in noted:  # cells have most of them in common
                    print(f"{event.cell.name}: {note}", file=sys.stderr)
            noted.update(event.warnings)
        if isinstance(event, ComparisonWarning):
            print(event.message, file=sys.stderr)
        elif isinstance(event, Failed):
            failed.append(event.cell.name)
            print_line(cell=event.cell.name, error=event.message)
        else:
            print_line(
                cell=event.cell.name,
                path=str(event.path),
                seed=event.cell.request.seed,
                seconds=round(event.seconds, 3),
            )

    bundle = carry_out(plan, arguments.out, arguments.clip, report)
    print_line(path=str(bundle))
    if failed:
        raise RequestError(
            f"{len(failed)} of {cost.cells} cells could not be drawn "
            f"({', '.join(failed):.80}): their errors are above"
        )


def verify(bundle: Bundle, manager: ModelManager) -> None:
    """Raises RequestError where a cell is further away than precision explains."""
    for change in bundle.changes(manager):
        print(change, file=sys.stderr)
    far = []
    for found in bundle.verified(manager):
        if found.difference is None or found.difference > MAX_GREY_LEVELS:
            far.append(found.cell.name)
        print_line(
            cell=found.cell.name,
            difference=found.difference,
            **({"error": found.message} if found.message else {}),
        )
    if far:
        raise RequestError(f"{len(far)} cells are not those of the bundle: {', '.join(far):.80}")
