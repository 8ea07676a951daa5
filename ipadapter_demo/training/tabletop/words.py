"""Words recipe: the finished text encoder, distilled onto itself, so that the base draws from free
wording what it draws from the caption that says the same.

The encoder is causal and the UNet attends to all of its states, so a word cannot know what follows
it, but the padding behind the text knows everything. So no state has to be another's: what counts
is what the UNet's cross-attention makes of all of them, for queries that it really has. Half of a
batch are captions as they are, whose states stay where they were. The UNet and everything trained
beside it stay as they are.
"""

from __future__ import annotations

import json
import random
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ipadapter_demo.tabletop.caption import FULL, RICH, CaptionStyle, Said, said_of, written
from ipadapter_demo.tabletop.wording import other_words, reworded
from ipadapter_demo.training.loop import fit
from ipadapter_demo.training.run import Run
from ipadapter_demo.training.tabletop.encoders import fits, tokens_of
from ipadapter_demo.training.tabletop.latents import Frozen, before, frozen_unet, save_samples
from ipadapter_demo.training.tabletop.pictures import Pictures
from ipadapter_demo.training.tabletop.queries import recorded_queries, relative_error

SHORT = CaptionStyle(empty=0.1, attribute=0.35, surface=0.4, solids=0.1)
ALIKE = 0.05  # of two solids the second is named as the first is
EMBEDS = 0.3  # weight of the embeddings, which no picture is drawn from
RECORDED, HELD_OUT = 4096, 256  # pictures whose queries are recorded


def train_words(run: Run, pictures: Pictures, held_out: Pictures, out: Path) -> dict:
    """Go on with `out/text_encoder` and write it, and the words that it reads besides. Its
    projection stays."""
    torch.manual_seed(run.seed)
    start = before(run, out, "text_encoder")
    teacher = Frozen.load(out, run.device, with_image_encoder=False, before=start)
    student = replace(teacher, text_encoder=deepcopy(teacher.text_encoder).requires_grad_(True))
    projection = load_file(out / "text_projection.safetensors")["weight"].to(run.device).float()
    unet, cache = frozen_unet(out, run.device), run.folder.parent / "cache"
    pictures, held_out = pictures[:RECORDED], held_out[:HELD_OUT]
    asked = recorded_queries(unet, teacher, pictures, cache)
    asked_held_out = recorded_queries(unet, teacher, held_out, cache / "held-out")

    def read(model: Frozen, texts: list[str]) -> tuple[Tensor, Tensor]:
        """States (B, tokens, dim) and embeddings (B, K)."""
        outputs = model.text_encoder(**tokens_of(model.tokenizer, texts, run.device))
        return outputs[0].float(), outputs.pooler_output.float() @ projection.T

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        rows = torch.randint(len(pictures), (batch,), generator=generator)
        rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
        said = [some_of(pictures, row, rng) for row in rows.tolist()]
        captions, free = [written(each) for each in said], batch // 2
        texts = [in_other_words(student, each, rng) for each in said[:free]] + captions[free:]
        with torch.no_grad():
            theirs, their_embeds = read(teacher, captions)
        states, embeds = read(student, texts)
        return (
            asked.difference(rows, states, theirs)
            + relative_error(states[free:], theirs[free:])
            + EMBEDS * relative_error(embeds, their_embeds)
        )

    @torch.no_grad()
    def figures() -> dict[str, float]:
        """Differences from the captions that name everything, of held-out scenes."""
        rng, rows = random.Random(1), torch.arange(len(held_out))
        said = [said_of(held_out.scenes, row, FULL, rng) for row in rows.tolist()]
        captions = [written(each) for each in said]
        free = [in_other_words(student, each, rng) for each in said]
        theirs, their_embeds = read(teacher, captions)
        found = {}
        for kind, texts in (("free", free), ("caption", captions)):
            states, embeds = read(student, texts)
            found[kind] = float(asked_held_out.difference(rows, states, theirs))
            found[f"{kind}_embeds"] = float(relative_error(embeds, their_embeds))
        return {name: round(value, 5) for name, value in found.items()}

    def preview(path: Path) -> dict[str, float]:
        rng = random.Random(0)
        said = [said_of(held_out.scenes, i, FULL, rng) for i in range(min(16, len(held_out)))]
        texts = [in_other_words(student, each, rng) for each in said]
        save_samples(unet, student, texts, path, unet.config.sample_size)
        return figures()

    outcome = fit(run, student.text_encoder, loss_of, preview)
    provenance = asdict(outcome) | figures()
    student.text_encoder.half().save_pretrained(out / "text_encoder")
    (out / "synonyms.json").write_text(json.dumps(other_words(), indent=2) + "\n")
    return provenance


def some_of(pictures: Pictures, index: int, rng: random.Random) -> Said:
    """Much or little of a scene."""
    said = said_of(pictures.scenes, index, RICH if rng.random() < 0.6 else SHORT, rng)
    if len(said.solids) == 2 and rng.random() < ALIKE:
        return replace(said, solids=said.solids[:1] * 2)
    return said


def in_other_words(model: Frozen, said: Said, rng: random.Random) -> str:
    """Its wording, of no more tokens than the encoder reads."""
    return reworded(said, rng, lambda text: fits(model.tokenizer, text))
