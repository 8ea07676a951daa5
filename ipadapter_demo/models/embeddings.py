"""Textual inversions: new words whose vectors people have learnt, in every layout there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.parts import Parts

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_SDXL = ("clip_l", "clip_g")  # its two text encoders


def learn_word(
    pipe: DiffusionPipeline, parts: Parts, word: str, weights: Mapping[str, object]
) -> None:
    """Teach `word` to the text encoders of a diffusers pipeline made of `parts`.

    Raises ModelError for vectors of another family of models, and for a word that is known.
    """
    vectors = vectors_for(weights, len(parts.text_encoders))
    ends = ("", "_2")[: len(vectors)]
    for encoder, tokenizer, vector in zip(
        parts.text_encoders, parts.tokenizers, vectors, strict=True
    ):
        width = encoder.config.hidden_size
        if vector.shape[-1] != width:
            raise ModelError(
                f"its vectors are {vector.shape[-1]} wide, and the model's text "
                f"encoder reads {width}"
            )
        learnt = {each.lower() for each in tokenizer.added_tokens_encoder}  # read in any case
        if word in tokenizer.get_vocab() or word.lower() in learnt:
            raise ModelError(f"{word!r} is a word of the model already: rename the file")
    for end, vector in zip(ends, vectors, strict=True):
        pipe.load_textual_inversion(
            vector,
            token=word,
            text_encoder=getattr(pipe, f"text_encoder{end}"),
            tokenizer=getattr(pipe, f"tokenizer{end}"),
        )


def vectors_for(weights: Mapping[str, Any], encoders: int) -> tuple[Tensor, ...]:
    """(vectors, width) for each of a model's text encoders. Layouts: SDXL's two; the first code's
    and AUTOMATIC1111's `string_to_param`; `emb_params`; the word itself as the only key."""
    two = all(isinstance(weights.get(key), Tensor) for key in _SDXL)
    if two and encoders == 1:
        raise ModelError("it is made for SDXL's two text encoders, and the model has one")
    if two:
        found = [weights[key] for key in _SDXL]
    elif "string_to_param" in weights:
        found = list(dict(weights["string_to_param"].items()).values())[:1]
    else:
        found = [value for value in weights.values() if isinstance(value, Tensor)]
    if len(found) != 1 + two or not all(isinstance(v, Tensor) and v.ndim in (1, 2) for v in found):
        raise ModelError(f"it is no textual inversion: it holds {sorted(weights)[:3]}")
    if not two and encoders > 1:
        raise ModelError(
            f"it is made for one text encoder, as SD 1.5 has, and the model has {encoders}"
        )
    return tuple(vector.detach().reshape(-1, vector.shape[-1]) for vector in found)
