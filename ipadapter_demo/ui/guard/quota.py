"""How much visitors may upload within an hour, each and all together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from starlette.types import Scope

from ipadapter_demo.serving.visitors import Visitor
from ipadapter_demo.ui.guard.refusal import Refused

MINUTES = 60
ALL = ""  # the visitor that all are


@dataclass(slots=True)
class Share:
    bytes: int
    files: int


class Quota:
    """`clock` gives seconds. What is counted is forgotten when files of its age are gone."""

    def __init__(
        self, each: Share, everybody: Share, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.each, self.everybody, self._clock = each, everybody, clock
        self._minutes: dict[int, dict[str, Share]] = {}
        self._lock = Lock()

    def add(self, visitor: str, size: int, files: int) -> None:
        """Counts bytes and files. Raises Refused where they are too many, and counts none."""
        with self._lock:
            now = int(self._clock() // 60)
            for minute in [m for m in self._minutes if m <= now - MINUTES]:
                del self._minutes[minute]
            current = self._minutes.setdefault(now, {})
            for who, most, whose in (
                (visitor, self.each, "a visitor"),
                (ALL, self.everybody, "all visitors together"),
            ):
                used = self._used(who)
                if used.bytes + size > most.bytes:
                    raise _too_much(f"{most.bytes:,} bytes", whose)
                if used.files + files > most.files:
                    raise _too_much(f"{most.files:,} files", whose)
            for who in (visitor, ALL):
                share = current.setdefault(who, Share(0, 0))
                share.bytes += size
                share.files += files

    def _used(self, who: str) -> Share:
        shares = [minute[who] for minute in self._minutes.values() if who in minute]
        return Share(sum(s.bytes for s in shares), sum(s.files for s in shares))


def _too_much(most: str, whose: str) -> Refused:
    return Refused(429, f"uploads: at most {most} within an hour for {whose}; try again later")


def visitor_of(scope: Scope) -> str:
    """An address of IPv4, or a network of IPv6, of which one person has 2^64 addresses.

    Behind a proxy that the server trusts, such as that of a Space, uvicorn has taken it from
    X-Forwarded-For, counted from the right: what a visitor writes there himself stands to the left
    of what the proxy adds, and is never read.
    """
    return Visitor("", (scope.get("client") or ("unknown",))[0]).network
