"""Settings of another program's picture: fields of a request, and words for what is not one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ipadapter_demo.errors import RequestError
from ipadapter_demo.foreign.names import AUTOMATIC, NOISE_SCHEDULES, SAMPLERS, stem, variant
from ipadapter_demo.lora import Lora
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.sampling import noise_schedules_of

MOST, LONGEST = 40, 120  # sentences, and characters of a value in one


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignSettings:
    """What `program` wrote: `fields` of a request, each of them valid; the IP-Adapter and the LoRAs
    as that program names them; and a sentence for each thing that is `left`."""

    program: str
    fields: Mapping[str, Any]
    adapter: str | None
    loras: tuple[tuple[str, float], ...]
    left: tuple[str, ...]

    def fitted(self, info: ModelInfo) -> tuple[dict[str, Any], list[str]]:
        """The fields of a request to a model, with what it has of adapter and LoRAs, and sentences
        about the rest."""
        fields, left = dict(self.fields), list(self.left)
        if self.adapter is not None:
            adapter, words = _adapter(self.adapter, info)
            fields |= adapter
            left += words
        loras = []
        for name, weight in self.loras:
            try:
                if stem(name) not in info.lora_names:
                    raise RequestError(f"{info.name} has no LoRA of this name; --lora adds files")
                loras.append(Lora(name=stem(name), weight=weight))
            except RequestError as error:
                left.append(said("LoRA", f"{name}:{weight:g}", str(error)))
        if loras:
            fields["loras"] = tuple(loras)
        if fields.get("image_layers", "all") != "all" and not info.layer_presets:
            left.append(said("layers", fields.pop("image_layers"), f"{info.name} has none by name"))
        if info.second_prompt and (skipped := fields.get("clip_skip", 0)):
            fields["clip_skip"] = 0  # the last layer is left out in any case, there as here
            if skipped > 1:
                why = "with two text encoders the last layer alone is left out"
                left.append(said("Clip skip", skipped + 1, why))
        if "seed" in fields:
            left.append(
                f"seed: {self.program} makes other noise of the same number: the picture differs."
            )
        more = len(left) - MOST
        return fields, [*left[:MOST], *([f"{more} more."] if more > 0 else [])]


class Collector:
    """Settings as they are found."""

    def __init__(self, program: str) -> None:
        self.program, self.fields, self.left = program, dict[str, Any](), list[str]()
        self.adapter: str | None = None
        self.loras: list[tuple[str, float]] = []

    def take(self, what: str, **fields: Any) -> None:
        """Fields that belong together, unless a request cannot have them."""
        try:
            GenerateRequest(**self.fields | fields)
        except RequestError as error:
            self.left.append(said(what, ", ".join(map(str, fields.values())), str(error)))
        else:
            self.fields |= fields

    def leave(self, what: str, value: object, why: str = "") -> None:
        self.left.append(said(what, value, why))

    def lora(self, name: str, weight: float) -> None:
        try:
            self.loras.append((name, float(weight)))
        except OverflowError:  # a whole number beyond all others
            self.loras.append((name, math.inf))

    def sampling(self, sampler: str, levels: str) -> None:
        """A sampler and its noise levels, each by the name that the program has for it."""
        name, levels = sampler.strip().lower(), levels.strip().lower()
        if levels == "automatic":
            levels = AUTOMATIC.get(name, levels)
        known = SAMPLERS.get(name)
        if known is None:
            self.leave("sampler", f"{sampler} {levels}".strip(), "it is none of those here")
            return
        self.take("sampler", sampler=known)
        schedule = NOISE_SCHEDULES.get(levels)
        if schedule is None or schedule not in noise_schedules_of(known):
            self.leave("noise levels", levels, f"the sampler {known} has none of this name")
        elif schedule != "default":
            self.take("noise levels", noise_schedule=schedule)

    def reference(
        self, adapter: str, weight: object, start: object, end: object, layers: object = None
    ) -> bool:
        """An IP-Adapter, λ, and the part of the steps. Only the first: pictures are not in the
        file, and several have to be put together by hand. True if it is taken: its layers are
        then the caller's to take, with what else goes along; of a further one they are said."""
        if self.adapter is not None:
            where = "" if layers in (None, "all") else f", layers {layers}"
            self.leave("further image prompt", f"{adapter}, weight {weight}{where}")
            return False
        self.adapter = adapter
        self.take("λ", image_scale=weight)
        self.take("window of λ", image_window=(start, end))
        return True

    def found(self) -> ForeignSettings:
        return ForeignSettings(
            program=self.program,
            fields=self.fields,
            adapter=self.adapter,
            loras=tuple(self.loras),
            left=tuple(self.left),
        )


def said(what: str, value: object, why: str = "") -> str:
    """A sentence about a setting that is not taken over."""
    text = " ".join(str(value).split())
    short = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return f"{what}: {short}{f' ({why[:200]})' if why else ''}"


def _adapter(named: str, info: ModelInfo) -> tuple[dict[str, Any], list[str]]:
    """By its file, or by the variant that its name tells, where the model has several."""
    plain = stem(named)
    if plain in info.adapters:
        return {"adapter": plain}, []
    has_it = [
        name
        for name, model in PUBLISHED.items()
        if plain in (stem(file) for file in model.adapter.files)
    ]
    if info.name in has_it:
        return {}, []
    where = f"the model {has_it[0]} has it" if has_it else "no model here has it by this name"
    kind = variant(named)
    if len(info.adapters) > 1 and kind in info.adapters:
        own = said("adapter", named, f"{where}; taken is {kind} of {info.name}")
        return {"adapter": kind}, [own]
    return {}, [said("adapter", named, where)]
