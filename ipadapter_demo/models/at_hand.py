"""What of the published files is on this machine: looked up on the disk, never asked of the hub."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.sources import Hub, local_folder, megabytes_of


def missing_of(places: Iterable[Hub], models_dir: Path | None) -> list[Hub]:
    """Those that are not at hand."""
    return [hub for hub in places if local_folder(hub, models_dir) is None]


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
