"""The type of what JSON can say: figures, provenance, records that are about to be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

# covariant, so that a dictionary of numbers is one of these as well
Json: TypeAlias = "str | int | float | Sequence[Json] | Mapping[str, Json] | None"
