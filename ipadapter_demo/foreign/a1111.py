"""The text of A1111, and of the many programs that write it as well: prompt, negative prompt, and a
last line of settings, `Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from ipadapter_demo.foreign.settings import Collector, ForeignSettings

NEGATIVE = "Negative prompt:"
NUMBERS = {"Steps": "steps", "CFG scale": "guidance", "Seed": "seed"}
# Of no use for another program
SILENT = {"Version", "Model hash", "VAE hash", "Lora hashes", "TI hashes", "Hashes", "RNG"}
# Without going back (+): what comes after a part never fits within it.
_LORA = re.compile(r"<lora:([^:<>]{1,200}+):?+([^<>]{0,60}+)>")


def settings(text: str) -> ForeignSettings | None:
    """None for a text of another kind."""
    *lines, last = text.strip().split("\n")
    values = dict(pairs(last))
    if "Steps" not in values:
        return None
    found = Collector("A1111")
    prompt, negative = _prompts(lines)
    for name, weights in _LORA.findall(prompt):
        _lora(found, name, weights)
    found.take("prompt", prompt=_LORA.sub("", prompt).strip())
    found.take("negative prompt", negative_prompt=negative)
    found.take("prompt syntax", prompt_syntax="weighted")
    if layers := number(values.pop("Clip skip", "")):  # 1 is all of them, as 0 is here
        found.take("Clip skip", clip_skip=layers - 1)
    for name, field in NUMBERS.items():
        if name in values:
            found.take(name, **{field: number(values.pop(name))})
    _sampling(found, values.pop("Sampler", ""), values.pop("Schedule type", ""))
    if size := re.fullmatch(r"(\d{1,5})x(\d{1,5})", values.pop("Size", "")):
        found.take("size", width=int(size[1]), height=int(size[2]))
    for name, value in values.items():
        unit = dict(pairs(value)) if name.startswith("ControlNet") else {}
        if "ip-adapter" in unit.get("Module", "") + unit.get("Model", ""):
            window = unit.get("Guidance Start", "0"), unit.get("Guidance End", "1")
            found.reference(
                unit.get("Model", ""), number(unit.get("Weight", "1")), *map(number, window)
            )
            found.leave("reference", "the picture is not in the file: give it")
        elif name not in SILENT:
            found.leave(name, value)
    return found.found()


def pairs(line: str) -> Iterator[tuple[str, str]]:
    """Names and values of 'Name: value, Other: "a, b"', in one pass: a value in quotation marks is
    a JSON string and may hold commas."""
    start, quoted, escaped = 0, False, False
    for place, mark in enumerate(f"{line},"):
        if escaped:
            escaped = False
        elif mark == "\\" and quoted:
            escaped = True
        elif mark == '"':
            quoted = not quoted
        elif mark == "," and (not quoted or place == len(line)):
            name, colon, value = line[start:place].partition(":")
            if colon:
                yield name.strip(), _unquoted(value.strip())
            start = place + 1


def number(text: str) -> float | None:
    """None for what is none, which no field takes."""
    try:
        return float(text) if re.search("[.eE]", text) else int(text[:40])
    except ValueError:
        return None


def _prompts(lines: list[str]) -> tuple[str, str]:
    begin = next((n for n, line in enumerate(lines) if line.startswith(NEGATIVE)), len(lines))
    negative = "\n".join(lines[begin:]).removeprefix(NEGATIVE)
    return "\n".join(lines[:begin]).strip(), negative.strip()


def _lora(found: Collector, name: str, weights: str) -> None:
    """The weights of text encoder and UNet, `0.8`, `1:0.7` or `te=1:unet=0.7`; a UNet without one
    has the other's. A LoRA has one here, the UNet's."""
    parts = [part for part in weights.split(":") if part]
    plain = [part for part in parts if "=" not in part]
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    text = named.get("te", (plain or ["1"])[0])
    weight = number(named.get("unet", plain[1] if len(plain) > 1 else text))
    if weight is None:
        found.leave("LoRA", f"{name}:{weights}", "no weight of its UNet is found")
        return
    found.lora(name, weight)
    if number(text) != weight:
        found.leave("LoRA", f"{name}:{weights}", "its text encoder has the weight of its UNet here")


def _sampling(found: Collector, sampler: str, levels: str) -> None:
    """Before version 1.9 the noise levels were a part of the sampler's name."""
    for ending in ("Karras", "Exponential"):
        if not levels and sampler.endswith(f" {ending}"):
            sampler, levels = sampler.removesuffix(f" {ending}"), ending
    if sampler:
        found.sampling(sampler, levels)


def _unquoted(value: str) -> str:
    if value[:1] != '"':
        return value
    try:
        text = json.loads(value)
    except ValueError:
        return value
    return str(text)
