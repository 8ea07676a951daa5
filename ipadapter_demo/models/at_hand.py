"""What of the published files is on this machine: looked up on the disk, never asked of the hub."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.sources import Hub, Report, fetched, local_folder, megabytes_of

NOT_HERE = "not downloaded"


@dataclass
class Finder:
    """Finds the published files of a loaded model: a `Locate`. What is missing it fetches, or
    raises ModelError where that may not be done."""

    models_dir: Path | None
    report: Report
    fetches: bool = True

    def __call__(self, hub: Hub) -> Path:
        if not self.fetches:
            check_at_hand(hub.repo, [hub], self.models_dir)
        return fetched(hub, self.models_dir, self.report)

    def cost(self, places: Iterable[Hub]) -> str:
        """What the first use of these would take: see `cost_of`."""
        return cost_of(missing_of(places, self.models_dir), self.fetches)


def missing_of(places: Iterable[Hub], models_dir: Path | None) -> list[Hub]:
    """Those that are not at hand."""
    return [hub for hub in places if local_folder(hub, models_dir) is None]


def cost_of(missing: list[Hub], fetches: bool) -> str:
    """In words behind a name; nothing where nothing is missing."""
    if not missing:
        return ""
    size = size_of(missing)
    return f" (fetches {size}, once)" if fetches else f" ({NOT_HERE}, {size})"


def check_at_hand(name: str, places: Iterable[Hub], models_dir: Path | None) -> None:
    """Raises ModelError where files of something called `name` would have to be fetched, and
    visitors may not have that done. Looks at the disk alone."""
    if missing := missing_of(places, models_dir):
        raise ModelError(
            f"{name} is not downloaded here ({size_of(missing)}), and this server fetches nothing "
            "for visitors: its operator can allow it with --visitor-downloads"
        )


def size_of(places: Iterable[Hub]) -> str:
    """Such as "5 GB", or "45 MB"; where it is not known, as much is said."""
    megabytes = megabytes_of(places)
    if not megabytes:
        return "size unknown"
    return f"{megabytes / 1000:.0f} GB" if megabytes >= 1000 else f"{megabytes} MB"
