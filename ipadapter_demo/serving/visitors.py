"""Visitors and how many requests each of them may have at once."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from ipadapter_demo.errors import RequestError

SESSIONS = 4  # of one address may have as much as they like: people behind one router


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whoever asks: a page that is open, or a program that names its session as it likes. So what
    counts besides is the address that it comes from."""

    session: str
    address: str

    @property
    def network(self) -> str:
        """The address, or of IPv6 the 64 bits that a customer is given."""
        try:
            ip = ipaddress.ip_address(self.address.partition("%")[0])
        except ValueError:
            return self.address
        if isinstance(ip, ipaddress.IPv6Address):
            mapped = ip.ipv4_mapped
            return str(mapped or ipaddress.ip_network((ip, 64), strict=False))
        return str(ip)


class Visitors:
    """Those who have requests here, waiting or at work: each `most`, an address SESSIONS times as
    many, all of them together `in_all`. None is no limit."""

    def __init__(self, most: int | None, in_all: int | None = None) -> None:
        self.most, self.in_all = most, in_all
        self._lock = Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def place(self, visitor: Visitor | None) -> Iterator[None]:
        """A place for one request, left with the block; None is the operator. Raises
        RequestError where there is none."""
        if visitor is None:
            yield
            return
        keys = ("session", visitor.session), ("address", visitor.network), ("all", "")
        with self._lock:
            self._check(keys)
            self._counts.update(keys)
        try:
            yield
        finally:
            with self._lock:
                self._counts.subtract(keys)
                self._counts = +self._counts  # nobody is remembered

    def _check(self, keys: tuple[tuple[str, str], ...]) -> None:
        session, address, everybody = (self._counts[key] for key in keys)
        if self.in_all is not None and everybody >= self.in_all:
            raise RequestError(
                f"{everybody} requests are at work, which is the limit: try again in a minute"
            )
        if self.most is None:
            return
        if session >= self.most:
            raise RequestError(
                f"you have {session} requests waiting or at work, and {self.most} is the limit: "
                "stop one, or wait for it"
            )
        if address >= SESSIONS * self.most:
            raise RequestError(
                f"{address} requests from your address are waiting or at work, and "
                f"{SESSIONS * self.most} is the limit: wait for one of them"
            )
