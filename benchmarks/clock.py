"""The clock of the benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable


def seconds(run: Callable[[], object]) -> float:
    """That a run takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
