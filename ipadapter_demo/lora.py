"""The choice of a LoRA, as a part of a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ipadapter_demo import checks
from ipadapter_demo.errors import RequestError

MAX_LORAS, MAX_WEIGHT, MAX_NAME = 8, 10.0, 200
_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A LoRA of the model, by its name, and how strongly it acts; below 0 against it."""

    name: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        checks.text("lora.name", self.name, MAX_NAME)
        weight = checks.number("lora.weight", self.weight, -MAX_WEIGHT, MAX_WEIGHT)
        object.__setattr__(self, "weight", weight)


def is_lora_file(place: Path) -> bool:
    """False for the name of one that the model has, which may have dots of its own: style.v2."""
    return place.suffix.lower() in _FILES


def lora_at(place: Path, weight: float) -> Lora:
    """The choice of a LoRA by its file, or by the name of one that the model has."""
    return Lora(name=place.stem if is_lora_file(place) else str(place), weight=weight)


def loras_from_texts(texts: Sequence[str] | None) -> tuple[Lora, ...]:
    """Raises RequestError for a weight that is no number."""
    if not isinstance(texts, (list, tuple, type(None))):
        raise RequestError(f"loras must be a list of names, got {texts!r:.80}")
    found = []
    for text in texts or ():
        name, colon, weight = str(text).partition(":")
        try:
            strength = float(weight) if colon else 1.0
        except ValueError:
            raise RequestError(
                f"loras must be names, or names with a weight such as style:0.7, got {text!r:.80}"
            ) from None
        found.append(Lora(name=name.strip(), weight=strength))
    return tuple(found)


def loras_from_text(text: str) -> tuple[Lora, ...]:
    """Those of "style:0.7, other", or of "none". Raises RequestError."""
    return () if text.strip() == "none" else loras_from_texts(text.split(","))


def texts_from_loras(loras: Sequence[Lora] | None) -> list[str]:
    """As `loras_from_texts` reads them: weights come back exactly."""
    return [
        lora.name if lora.weight == 1 else f"{lora.name}:{lora.weight!r}".removesuffix(".0")
        for lora in loras or ()
    ]
