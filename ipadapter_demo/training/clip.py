"""CLIP recipe: a text and a vision encoder of the standard classes, trained contrastively.

The captions of this world name fewer things than a picture shows, and a purely contrastive
embedding keeps only what captions name. So a linear head, thrown away afterwards, also has to read
the exact appearance (hues, texture scale, light, ...) from the image embedding; positions are left
out, so that an image prompt says what things are and not where. A second head has to say what each
patch shows, because a vision transformer learns shape and texture very slowly from one label a
picture. And every caption meets itself with one word wrong (arXiv 2210.01936): random captions are
told apart by colours alone, and an encoder that needs nothing else forgets shapes and textures.
The encoders then go on one at a time, each beside the other as it is: the vision encoder, which
learns slowest, for longest; and last the text encoder, for which pictures are embedded only once.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torchvision.utils import save_image
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from ipadapter_demo.tabletop.caption import FULL, RICH, caption, with_one_word_wrong
from ipadapter_demo.tabletop.render import FIRST_SOLID, FLOOR, trace
from ipadapter_demo.tabletop.scene import COLOURS, HUES, SHAPES, TEXTURES, Scenes
from ipadapter_demo.training.data import SIZE, Pictures
from ipadapter_demo.training.loop import Run, fit

MAX_TOKENS = 32
EMBED_DIM = 256
START, END = "<|startoftext|>", "<|endoftext|>"
APPEARANCE_WEIGHT = 8.0
PATCHES = 8  # a side
MEAN, STD = 0.5, 0.25  # of the encoder's own pixel normalisation, all channels alike


def train_tokenizer(scenes: Scenes, out: Path, vocab_size: int = 1024) -> CLIPTokenizer:
    """A byte-level BPE over captions in CLIP's layout: 256 bytes, 256 bytes that end a word,
    merges, two specials; so any text has tokens, and every word of a caption is one token."""
    rng = random.Random(0)
    texts = [caption(scenes, i, FULL, rng) for i in range(min(4000, len(scenes)))]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size,
                                                       end_of_word_suffix="</w>"))
    merges = [tuple(m) for m in json.loads(bpe.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(m) for m in merges)]
    tokens = [*dict.fromkeys(tokens), START, END]
    tokenizer = CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=merges,
                              model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(out / "tokenizer")
    return tokenizer


def new_encoders(
    tokenizer: CLIPTokenizer,
) -> tuple[CLIPTextModelWithProjection, CLIPVisionModelWithProjection]:
    text = CLIPTextModelWithProjection(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=768, num_hidden_layers=4,
        num_attention_heads=4, max_position_embeddings=MAX_TOKENS, projection_dim=EMBED_DIM,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, attn_implementation="eager",
    ))
    vision = CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=192, intermediate_size=768, num_hidden_layers=6, num_attention_heads=3,
        image_size=SIZE, patch_size=16, projection_dim=EMBED_DIM, hidden_act="gelu",
        attn_implementation="eager",  # 65 tokens: twice as fast to train as the fused kernel on CPU
    ))
    return text, vision


class Clip(nn.Module):
    """Both encoders, the temperature, and the two heads that only training uses."""

    def __init__(self, text: CLIPTextModelWithProjection,
                 vision: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        self.text, self.vision = text, vision
        self.appearance = nn.Linear(EMBED_DIM, appearance_of_width())
        self.patches = nn.Linear(vision.config.hidden_size, 3 + len(SHAPES) + len(TEXTURES) + 2)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


def appearance_of_width() -> int:
    return 2 * (2 + len(SHAPES) + len(TEXTURES) + 4) + (2 + len(TEXTURES) + 2) + 2 + 2 + 1


def appearance(scenes: Scenes) -> tuple[Tensor, Tensor]:
    """What a picture shows beyond layout: targets (B, K) about unit scale and their mask (B, K)."""
    columns, mask = [], []

    def add(values: Tensor, where: Tensor | None = None) -> None:
        values = values.float().reshape(len(scenes), -1)
        columns.append(values)
        keep = torch.ones(len(scenes), dtype=torch.bool) if where is None else where
        mask.append(keep[:, None].expand_as(values))

    for slot in range(2):
        here = scenes.present[:, slot]
        add(_circle(scenes.hue[:, slot]), here)
        add(_one_hot(scenes.shape[:, slot], SHAPES), here)
        add(_one_hot(scenes.texture[:, slot], TEXTURES), here)
        patterned = here & (scenes.texture[:, slot] > 0)
        add(scenes.second[:, slot], patterned)
        add((scenes.period[:, slot] - 0.45) / 0.1, patterned)
        add((scenes.radius[:, slot] - 0.58) / 0.1, here)
        add(scenes.present[:, slot])
    add(_circle(scenes.floor_hue))
    add(_one_hot(scenes.floor_texture, TEXTURES))
    add((scenes.floor_period - 0.9) / 0.1, scenes.floor_texture > 0)
    add(scenes.floor_angle / 0.35, scenes.floor_texture > 0)
    add(_circle(scenes.wall_hue))
    add(scenes.light_x / 0.75)
    add((scenes.light_z - 0.55) / 0.15)
    add((scenes.camera_y - 1.8) / 0.3)
    return torch.cat(columns, dim=1), torch.cat(mask, dim=1)


def _one_hot(index: Tensor, names: tuple[str, ...]) -> Tensor:
    return 2.5 * F.one_hot(index, len(names))  # shape and texture are the hardest to learn


def _circle(degrees: Tensor) -> Tensor:
    angle = torch.deg2rad(degrees)
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def train_clip(run: Run, pictures: Pictures, held_out: Pictures, out: Path) -> dict:
    """Train both and write tokenizer, text_encoder, image_encoder, feature_extractor in `out`."""
    torch.manual_seed(run.seed)
    tokenizer = train_tokenizer(pictures.scenes, out)
    clip = Clip(*new_encoders(tokenizer)).to(run.device)
    facts = _train(run, clip, tokenizer, pictures, held_out)
    torch.save(clip.state_dict(), _clip_file(run))
    clip.text.text_model.half().save_pretrained(out / "text_encoder")
    _save_vision(clip, out)
    return facts


def train_image_encoder(run: Run, pictures: Pictures, held_out: Pictures, out: Path) -> dict:
    """Go on with the vision encoder of a finished `train_clip`, the text encoder kept as it is."""
    clip, tokenizer = _finished(run, out)
    clip.text.requires_grad_(False)
    facts = _train(run, clip, tokenizer, pictures, held_out)
    torch.save(clip.state_dict(), _clip_file(run))
    _save_vision(clip, out)
    return facts


def train_text_encoder(run: Run, pictures: Pictures, held_out: Pictures, out: Path) -> dict:
    """Go on with the text encoder, the vision encoder kept as it is.

    Its pictures are embedded once, so a step costs a tenth and many captions fit into a batch.
    """
    clip, tokenizer = _finished(run, out)
    clip.requires_grad_(False)
    clip.text.requires_grad_(True)
    clip.log_temperature.requires_grad_(True)
    embeds = torch.cat([clip.vision(clip_pixels(pictures.pixels(i)).to(run.device)).image_embeds
                        for i in torch.arange(len(pictures)).split(64)])

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        indices = torch.randint(len(pictures), (batch,), generator=generator)
        words = _caption_embeds(clip, tokenizer, pictures, indices, generator)
        return _contrast(clip, embeds[indices.to(run.device)], words)

    def preview(path: Path) -> None:
        print(path.stem, evaluate_clip(clip, tokenizer, held_out), flush=True)

    outcome = fit(run, clip, loss_of, preview)
    torch.save(clip.state_dict(), _clip_file(run))
    clip.text.text_model.half().save_pretrained(out / "text_encoder")
    return asdict(outcome) | evaluate_clip(clip.float(), tokenizer, held_out)


def _finished(run: Run, out: Path) -> tuple[Clip, CLIPTokenizer]:
    tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer")
    clip = Clip(*new_encoders(tokenizer)).to(run.device)
    clip.load_state_dict(torch.load(_clip_file(run), map_location=run.device, weights_only=True))
    return clip, tokenizer


def _clip_file(run: Run) -> Path:
    """Both encoders whole, projections and heads included; each stage goes on from it."""
    return run.folder.parent / "clip" / "clip.pt"


def _save_vision(clip: Clip, out: Path) -> None:
    clip.vision.half().save_pretrained(out / "image_encoder")
    CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE},
                       image_mean=[MEAN] * 3, image_std=[STD] * 3).save_pretrained(
        out / "feature_extractor")


def _train(run: Run, clip: Clip, tokenizer: CLIPTokenizer, pictures: Pictures,
           held_out: Pictures) -> dict:
    targets, mask = appearance(pictures.scenes)

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        indices = torch.randint(len(pictures), (batch,), generator=generator)
        words = _caption_embeds(clip, tokenizer, pictures, indices, generator)
        pixels = clip_pixels(pictures.pixels(indices)).to(run.device)
        seen = clip.vision(pixels)
        images = seen.image_embeds.float()
        read = clip.appearance(images)
        error = F.smooth_l1_loss(read, targets[indices].to(read), reduction="none", beta=0.3)
        keep = mask[indices].to(run.device)
        patches = clip.patches(seen.last_hidden_state[:, 1:]).float()
        return (_contrast(clip, images, words)
                + APPEARANCE_WEIGHT * (error * keep).sum() / keep.sum()
                + patch_loss(patches, pictures.scenes[indices].to(run.device)))

    def preview(path: Path) -> None:
        print(path.stem, evaluate_clip(clip, tokenizer, held_out), flush=True)
        save_image(held_out.pixels(torch.arange(8)), path, nrow=8, normalize=True)

    outcome = fit(run, clip, loss_of, preview)
    return asdict(outcome) | evaluate_clip(clip, tokenizer, held_out)


def _caption_embeds(clip: Clip, tokenizer: CLIPTokenizer, pictures: Pictures, indices: Tensor,
                    generator: torch.Generator) -> Tensor:
    """(2 B, K): a caption of every picture, then the same captions with one word wrong."""
    rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    texts = [caption(pictures.scenes, i, RICH, rng) for i in indices.tolist()]
    texts += [with_one_word_wrong(text, rng) for text in texts]
    device = str(clip.log_temperature.device)
    return clip.text(**tokens_of(tokenizer, texts, device)).text_embeds.float()


def _contrast(clip: Clip, images: Tensor, words: Tensor) -> Tensor:
    """Pictures find their captions, among all the wrong ones too; captions find their pictures."""
    batch = len(images)
    logits = clip.log_temperature.exp().clamp(max=100) * (
        F.normalize(images, dim=-1) @ F.normalize(words, dim=-1).T
    )
    diagonal = torch.arange(batch, device=logits.device)
    return (F.cross_entropy(logits, diagonal)
            + F.cross_entropy(logits[:, :batch].T, diagonal)) / 2


def patch_loss(logits: Tensor, scenes: Scenes) -> Tensor:
    """Wall, floor or solid, and its shape, texture and hue, at the middle of every patch.

    logits (B, patches, K); the truth comes from casting one ray a patch.
    """
    _, _, ids, _ = trace(scenes, PATCHES)
    ids = ids.flatten(1)  # (B, patches)
    surface = ids.clamp(max=FIRST_SOLID)
    slot = (ids - FIRST_SOLID).clamp(min=0)
    shape = scenes.shape.gather(1, slot)
    is_solid, is_floor = surface == FIRST_SOLID, surface == FLOOR
    texture = torch.where(is_solid, scenes.texture.gather(1, slot), scenes.floor_texture[:, None])
    hue = torch.where(is_floor, scenes.floor_hue[:, None], scenes.wall_hue[:, None])
    hue = torch.where(is_solid, scenes.hue.gather(1, slot), hue)
    where, what, how, circle = logits.split([3, len(SHAPES), len(TEXTURES), 2], dim=-1)
    patterned = is_solid | is_floor
    return (
        F.cross_entropy(where.flatten(0, 1), surface.flatten())
        + F.cross_entropy(what[is_solid], shape[is_solid])
        + F.cross_entropy(how[patterned], texture[patterned])
        + F.smooth_l1_loss(circle, _circle(hue), beta=0.3)
    )


def clip_pixels(pixels: Tensor) -> Tensor:
    """[-1, 1] pixels as the vision encoder wants them."""
    return ((pixels + 1) / 2 - MEAN) / STD


def tokens_of(tokenizer: CLIPTokenizer, texts: list[str], device: str) -> dict[str, Tensor]:
    return {"input_ids": tokenizer(texts, padding="max_length", truncation=True,
                                   max_length=MAX_TOKENS, return_tensors="pt").input_ids.to(device)}


@torch.no_grad()
def evaluate_clip(clip: Clip, tokenizer: CLIPTokenizer, held_out: Pictures,
                  count: int = 512) -> dict[str, float]:
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
    right = [(F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T).argmax(1).cpu()
             == torch.arange(len(a)) for a, b in zip(images, words, strict=True)]
    read = clip.appearance(torch.cat(images)).float().cpu()
    scenes = held_out.scenes[:count]
    shape, texture = read[:, 2:6].argmax(1), read[:, 6:10].argmax(1)
    step = appearance_of_width() - 13
    floor = read[:, step + 2 : step + 6].argmax(1)
    return {
        "caption_of_64": round(torch.cat(right).float().mean().item(), 4),
        "right_over_wrong": round(
            ((seen * said).sum(1) > (seen * missaid).sum(1)).float().mean().item(), 4),
        "solid_colour": round(_hue_right(read[:, 0:2], scenes.colour[:, 0]), 4),
        "solid_shape": round((shape == scenes.shape[:, 0]).float().mean().item(), 4),
        "solid_texture": round((texture == scenes.texture[:, 0]).float().mean().item(), 4),
        "floor_texture": round((floor == scenes.floor_texture).float().mean().item(), 4),
        "floor_colour": round(_hue_right(read[:, step : step + 2], scenes.floor_colour), 4),
        "wall_colour": round(_hue_right(read[:, -5:-3], scenes.wall_colour), 4),
    }


def _hue_right(circle: Tensor, colour: Tensor) -> float:
    named = _circle(torch.tensor([HUES[c] for c in COLOURS]))
    return ((circle @ named.T).argmax(1) == colour).float().mean().item()
