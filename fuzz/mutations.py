"""Hypothesis strategies: what was right, changed in a few places."""

from __future__ import annotations

import copy
import string
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

CANARY = "canary-that-nobody-may-read.png"
SECRET = b"the content of a file that lies outside"
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2.5, 1e308, -1e-308, 2**31, 2**63, 10**400, float("nan"),
    float("inf"),
    "", " ", "0", "nan", "x" * 5000, "\0", "\ud800", "λ" * 300, "<img src=x onerror=alert(1)>",
    "../../../etc/passwd", f"../{CANARY}", "a/..", "0:1:0.0000001", "http://127.0.0.1/x", "$(id)",
    "{0}%s",
    [], {}, [None], [[[[[[[[]]]]]]]], {"a": {"b": {"c": []}}}, [0] * 500, {"path": "/etc/passwd"},
    {"path": f"../{CANARY}", "meta": {"_type": "gradio.FileData"}}, {"__type__": "update"},
]  # fmt: skip
FEW_ODD: list[Any] = [
    None, True, -1, 2.5, 10**30, float("nan"), "x" * 3000, "<img src=x onerror=alert(1)>",
    [], {"a": [1]},
    {"path": "/etc/passwd"}, [[["x"]]],
]  # fmt: skip


@st.composite
def changed_bytes(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the files with up to six changes: bytes flipped, cut out, put in, repeated; or its
    beginning alone; or two of them together."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.sampled_from((1, 2, 4, 16, 300)))
        match draw(
            st.sampled_from(("flip", "cut", "put", "repeat", "zero", "ones", "end", "other"))
        ):
            case "flip" if content:
                content[at] ^= draw(st.integers(1, 255))
            case "cut":
                del content[at : at + length]
            case "put":
                content[at:at] = draw(st.binary(max_size=8))
            case "repeat":
                content[at:at] = content[at : at + length] * draw(st.integers(1, 50))
            case "zero":
                content[at : at + length] = bytes(length)
            case "ones":
                content[at : at + length] = b"\xff" * length
            case "end":
                del content[at:]
            case "other":
                content[at:] = draw(st.sampled_from(seeds))[at:]
    return bytes(content)


@st.composite
def changed_json(draw: st.DrawFn, seeds: Sequence[Any], odd: Sequence[Any] = ODD) -> Any:
    """One of the documents with up to three values replaced, left out, added or repeated."""
    document = copy.deepcopy(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 3))):
        parent, key = document, None
        for _ in range(draw(st.integers(1, 7))):
            inside = parent[key] if key is not None else parent
            if not isinstance(inside, (dict, list)) or not inside:
                break
            parent = inside
            key = draw(
                st.sampled_from(sorted(parent) if isinstance(parent, dict) else range(len(parent)))
            )
        if key is None:
            continue
        match draw(st.sampled_from(("odd", "odd", "odd", "number", "text", "out", "more", "many"))):
            case "odd":
                parent[key] = copy.deepcopy(draw(st.sampled_from(odd)))
            case "number":
                parent[key] = draw(st.one_of(st.integers(), st.floats()))
            case "text":
                parent[key] = draw(st.text(max_size=30))
            case "out":
                del parent[key]
            case "more" if isinstance(parent, dict):
                parent[draw(st.text(string.ascii_lowercase, min_size=1, max_size=9))] = parent[key]
            case "many" if isinstance(parent, list):
                parent.extend(copy.deepcopy(parent[key]) for _ in range(draw(st.integers(1, 40))))
    return document
