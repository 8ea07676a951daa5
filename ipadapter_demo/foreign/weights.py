"""Weights within prompts, as ComfyUI and InvokeAI read them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ipadapter_demo.foreign.settings import Collector

# None goes back (+) over what it has read: a long text takes no longer than its length.
_ESCAPED = re.compile(r"\\[()]")
_PAIR = re.compile(r"\([^()]*+\)")
_SQUARE = re.compile(r"(?<!\\)\[[^\[\]]*+\]?")
_BREAK = re.compile(r"\bBREAK\b")
_MARK = re.compile(r"\(|(:\s*+[-+]?[\d.]++\s*+)?\)")
# `(red)1.4`, `(red)++`, `red++`, `red--`
_OF_INVOKEAI = re.compile(
    r"(?:\([^()]*+)?(?<!\\)\)(?:[-+]++|\d*\.?\d+)|(?<!\w)\w++(?:\+++|-++)(?!\w)"
)


def weights_of_comfyui(found: Collector, fields: Mapping[str, str]) -> None:
    """The syntax of the prompts that are taken, their fields by what a sentence calls them.
    ComfyUI always weighs by round brackets, and by nothing else: without any, prompts are plain."""
    prompts = {what: str(found.fields.get(field, "")) for what, field in fields.items()}
    bare = {what: _ESCAPED.sub("", prompt) for what, prompt in prompts.items()}
    weighs = any(_PAIR.search(prompt) for prompt in bare.values())
    if not weighs and bare == prompts:
        return
    found.take("prompt syntax", prompt_syntax="weighted")
    if "prompt_syntax" not in found.fields:  # of a weight that no request has
        return
    if weighs:
        # https://github.com/comfyanonymous/ComfyUI/blob/master/comfy/sd1_clip.py
        why = "ComfyUI weighs against the empty prompt: the same weight acts otherwise here"
        found.leave("prompt syntax", "weighted", why)
    for what, prompt in bare.items():
        for part, why in _read_otherwise(prompt):
            found.leave(what, part, why)


def weights_of_invokeai(found: Collector, what: str, prompt: str) -> None:
    """Their syntax is another one, which no prompt here is read by."""
    if weight := _OF_INVOKEAI.search(prompt):
        found.leave(what, weight[0], "a weight of InvokeAI, read as plain text here")


def _read_otherwise(prompt: str) -> Iterator[tuple[str, str]]:
    """What means something else in a weighted prompt here; the first of each kind."""
    if square := _SQUARE.search(prompt):
        yield square[0], "plain text in ComfyUI, less weight here"
    if _BREAK.search(prompt):
        yield "BREAK", "plain text in ComfyUI, the end of a window here"
    opened: list[int] = []
    for mark in _MARK.finditer(prompt):
        if mark[0] == "(":
            opened.append(mark.start())
        elif opened:
            start = opened.pop()
            if opened and mark[1]:
                why = "its weight counts alone in ComfyUI, brackets around it multiply it here"
                yield prompt[start : mark.end()], why
                return
