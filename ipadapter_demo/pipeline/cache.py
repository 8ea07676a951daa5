"""Results of pure functions, by the content of what went in."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from PIL import Image

T = TypeVar("T")


class ContentCache:
    """The most recent results of a pure function, by content. Safe for many threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._lock = capacity, Lock()
        self._entries: OrderedDict[Hashable, Any] = OrderedDict()  # a key says of what type

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
        value = compute()  # two threads may both compute it: equal results, no waiting
        with self._lock:
            self._entries[key] = value
            while len(self._entries) > self._capacity:
                self._entries.popitem(last=False)
        return value


def digest(image: Image.Image) -> str:
    content = hashlib.sha256(np.ascontiguousarray(image).tobytes())
    content.update(f"{image.mode} {image.size}".encode())
    return content.hexdigest()
