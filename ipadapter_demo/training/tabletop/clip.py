"""CLIP recipe: a text and a vision encoder of the standard classes, trained contrastively.

The captions of this world name fewer things than a picture shows, and a purely contrastive
embedding keeps only what captions name. So a linear head, thrown away afterwards, also has to read
the exact appearance (hues, texture scale, light, ...) from the image embedding. A second head has
to say what each patch shows, because a vision transformer learns shape and texture very slowly from
one label a picture. And every caption meets itself with one word wrong (arXiv 2210.01936): random
captions are distinguished by colours alone, and an encoder that needs nothing else forgets shapes
and textures.

The encoders then go on one at a time, each beside the other as it is: the vision encoder, which
learns slowest, for longest; and last the text encoder, for which pictures are embedded only once.
There a third head has to read every word back from its state, because words that tell the same
pictures apart become synonyms to contrast alone, and a base model that reads the states cannot draw
a difference that is not in them.
"""

from __future__ import annotations

import math
import random
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.utils import save_image
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from ipadapter_demo.tabletop.caption import FULL, RICH, caption, with_one_word_wrong
from ipadapter_demo.training.loop import fit
from ipadapter_demo.training.run import Run
from ipadapter_demo.training.tabletop.appearance import (
    PATCH_LOGITS,
    appearance,
    columns,
    nearest_colour,
    patch_loss,
    width,
)
from ipadapter_demo.training.tabletop.encoders import (
    EMBED_DIM,
    clip_pixels,
    new_encoders,
    save_image_encoder,
    save_text_encoder,
    tokens_of,
    train_tokenizer,
)
from ipadapter_demo.training.tabletop.latents import image_embeds
from ipadapter_demo.training.tabletop.pictures import Pictures

APPEARANCE_WEIGHT = 8.0


class Clip(nn.Module):
    """Both encoders, the temperature, and the two heads that only training uses."""

    def __init__(
        self, text: CLIPTextModelWithProjection, vision: CLIPVisionModelWithProjection
    ) -> None:
        super().__init__()
        self.text, self.vision = text, vision
        self.appearance = nn.Linear(EMBED_DIM, width())
        self.patches = nn.Linear(vision.config.hidden_size, sum(PATCH_LOGITS))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


def train_clip(run: Run, pictures: Pictures, held_out: Pictures, out: Path) -> dict:
    """Train both and write tokenizer, text_encoder, image_encoder, feature_extractor in `out`."""
    torch.manual_seed(run.seed)
    tokenizer = train_tokenizer(pictures.scenes, out)
    clip = Clip(*new_encoders(tokenizer)).to(run.device)
    provenance = _train(run, clip, tokenizer, pictures, held_out)
    torch.save(clip.state_dict(), _clip_file(run))
    save_text_encoder(clip.text, out)
    save_image_encoder(clip.vision, out)
    return provenance


def train_image_encoder(run: Run, pictures: Pictures, held_out: Pictures, out: Path) -> dict:
    """Go on with the vision encoder of a finished `train_clip`, the text encoder kept as it is."""
    clip, tokenizer = _finished(run, out)
    clip.text.requires_grad_(False)
    provenance = _train(run, clip, tokenizer, pictures, held_out)
    torch.save(clip.state_dict(), _clip_file(run))
    save_image_encoder(clip.vision, out)
    return provenance


def train_text_encoder(run: Run, pictures: Pictures, held_out: Pictures, out: Path) -> dict:
    """Go on with the text encoder, the vision encoder kept as it is.

    Its pictures are embedded once, so a step costs a tenth and many captions fit into a batch.
    """
    clip, tokenizer = _finished(run, out)
    clip.requires_grad_(False)
    clip.text.requires_grad_(True)
    clip.log_temperature.requires_grad_(True)
    embeds = image_embeds(clip.vision, pictures)
    words = nn.Linear(clip.text.config.hidden_size, len(tokenizer)).to(run.device)

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        indices = torch.randint(len(pictures), (batch,), generator=generator)
        tokens = _captions(tokenizer, pictures, indices, generator, run.device)
        said = clip.text(**tokens)
        ids = tokens["input_ids"]
        is_word = ids < tokenizer.bos_token_id  # the two specials come last
        return _contrast(
            clip, embeds[indices].to(run.device), said.text_embeds.float()
        ) + F.cross_entropy(words(said.last_hidden_state[is_word]).float(), ids[is_word])

    def preview(path: Path) -> None:
        print(path.stem, evaluate_clip(clip, tokenizer, held_out), flush=True)

    outcome = fit(run, nn.ModuleDict({"clip": clip, "words": words}), loss_of, preview)
    torch.save(clip.state_dict(), _clip_file(run))
    save_text_encoder(clip.text, out)
    return asdict(outcome) | evaluate_clip(clip.float(), tokenizer, held_out)


def _finished(run: Run, out: Path) -> tuple[Clip, CLIPTokenizer]:
    tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer")
    clip = Clip(*new_encoders(tokenizer)).to(run.device)
    clip.load_state_dict(torch.load(_clip_file(run), map_location=run.device, weights_only=True))
    return clip, tokenizer


def _clip_file(run: Run) -> Path:
    """Both encoders whole, projections and heads included; each stage goes on from it."""
    return run.folder.parent / "clip" / "clip.pt"


def _train(
    run: Run, clip: Clip, tokenizer: CLIPTokenizer, pictures: Pictures, held_out: Pictures
) -> dict:
    targets, mask = appearance(pictures.scenes)

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        indices = torch.randint(len(pictures), (batch,), generator=generator)
        tokens = _captions(tokenizer, pictures, indices, generator, run.device)
        words = clip.text(**tokens).text_embeds.float()
        pixels = clip_pixels(pictures.pixels(indices)).to(run.device)
        seen = clip.vision(pixels)
        images = seen.image_embeds.float()
        read = clip.appearance(images)
        error = F.smooth_l1_loss(read, targets[indices].to(read), reduction="none", beta=0.3)
        keep = mask[indices].to(run.device)
        patches = clip.patches(seen.last_hidden_state[:, 1:]).float()
        return (
            _contrast(clip, images, words)
            + APPEARANCE_WEIGHT * (error * keep).sum() / keep.sum()
            + patch_loss(patches, pictures.scenes[indices].to(run.device))
        )

    def preview(path: Path) -> None:
        print(path.stem, evaluate_clip(clip, tokenizer, held_out), flush=True)
        save_image(held_out.pixels(torch.arange(len(held_out))[:8]), path, nrow=8, normalize=True)

    outcome = fit(run, clip, loss_of, preview)
    return asdict(outcome) | evaluate_clip(clip, tokenizer, held_out)


def _captions(
    tokenizer: CLIPTokenizer,
    pictures: Pictures,
    indices: Tensor,
    generator: torch.Generator,
    device: str,
) -> dict[str, Tensor]:
    """Tokens of 2 B: a caption of every picture, then the same captions with one word wrong."""
    rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    texts = [caption(pictures.scenes, i, RICH, rng) for i in indices.tolist()]
    texts += [with_one_word_wrong(text, rng) for text in texts]
    return tokens_of(tokenizer, texts, device)


def _contrast(clip: Clip, images: Tensor, words: Tensor) -> Tensor:
    """Pictures find their captions, among all the wrong ones too; captions find their pictures."""
    batch = len(images)
    logits = clip.log_temperature.exp().clamp(max=100) * (
        F.normalize(images, dim=-1) @ F.normalize(words, dim=-1).T
    )
    diagonal = torch.arange(batch, device=logits.device)
    return (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits[:, :batch].T, diagonal)) / 2


@torch.no_grad()
def evaluate_clip(
    clip: Clip, tokenizer: CLIPTokenizer, held_out: Pictures, count: int = 512
) -> dict[str, float]:
    """Held-out: picks the right caption of 64, and prefers it to itself with one word wrong; and
    what the linear head reads of the picture."""
    rng = random.Random(1)
    device = str(next(clip.parameters()).device)
    images, words, wrong = [], [], []
    count = min(count, len(held_out))
    for indices in torch.arange(count).split(64):
        pixels = clip_pixels(held_out.pixels(indices)).to(device)
        images.append(clip.vision(pixels).image_embeds)
        texts = [caption(held_out.scenes, i, FULL, rng) for i in indices.tolist()]
        words.append(clip.text(**tokens_of(tokenizer, texts, device)).text_embeds)
        texts = [with_one_word_wrong(text, rng) for text in texts]
        wrong.append(clip.text(**tokens_of(tokenizer, texts, device)).text_embeds)
    seen, said, missaid = (F.normalize(torch.cat(e), dim=-1) for e in (images, words, wrong))
    right = [
        (a @ b.T).argmax(1).cpu() == torch.arange(len(a))
        for a, b in zip(seen.split(64), said.split(64), strict=True)
    ]
    read = clip.appearance(torch.cat(images)).float().cpu()
    scenes = held_out.scenes[:count]

    def share(hit: Tensor) -> float:
        return round(hit.float().mean().item(), 4)

    def part(name: str) -> Tensor:
        return read[:, columns()[name]]

    return {
        "caption_of_64": share(torch.cat(right)),
        "right_over_wrong": share((seen * said).sum(1) > (seen * missaid).sum(1)),
        "solid_colour": share(nearest_colour(part("hue0")) == scenes.colour[:, 0]),
        "solid_shape": share(part("shape0").argmax(1) == scenes.shape[:, 0]),
        "solid_texture": share(part("texture0").argmax(1) == scenes.texture[:, 0]),
        "floor_texture": share(part("floor_texture").argmax(1) == scenes.floor_texture),
        "floor_colour": share(nearest_colour(part("floor_hue")) == scenes.floor_colour),
        "wall_colour": share(nearest_colour(part("wall_hue")) == scenes.wall_colour),
    }
