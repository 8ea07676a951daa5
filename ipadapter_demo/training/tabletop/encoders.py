"""The CLIP encoders that the recipes train: standard classes, their tokenizer, what they read."""

from __future__ import annotations

import json
import random
from pathlib import Path

from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from ipadapter_demo.tabletop.caption import FULL, caption
from ipadapter_demo.tabletop.scene import Scenes
from ipadapter_demo.training.tabletop.pictures import SIZE

MAX_TOKENS = 32
EMBED_DIM = 256
START, END = "<|startoftext|>", "<|endoftext|>"
MEAN, STD = 0.5, 0.25  # of the encoder's own pixel normalisation, all channels alike


def train_tokenizer(scenes: Scenes, out: Path, vocab_size: int = 1024) -> CLIPTokenizer:
    """A byte-level BPE over captions in CLIP's layout: 256 bytes, 256 bytes that end a word,
    merges, two specials; so any text has tokens, and every word of these captions is one token:
    they name no finish, whose words are several."""
    rng = random.Random(0)
    texts = [caption(scenes, i, FULL, rng) for i in range(min(4000, len(scenes)))]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocab_size, end_of_word_suffix="</w>")
    )
    merges = [tuple(m) for m in json.loads(bpe.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(m) for m in merges)]
    tokens = [*dict.fromkeys(tokens), START, END]
    tokenizer = CLIPTokenizer(
        vocab={t: i for i, t in enumerate(tokens)}, merges=merges, model_max_length=MAX_TOKENS
    )
    tokenizer.save_pretrained(out / "tokenizer")
    return tokenizer


def fits(tokenizer: CLIPTokenizer, text: str) -> bool:
    """True if the encoder reads all of a text."""
    return len(tokenizer(text, verbose=False).input_ids) <= MAX_TOKENS


def new_encoders(
    tokenizer: CLIPTokenizer,
) -> tuple[CLIPTextModelWithProjection, CLIPVisionModelWithProjection]:
    text = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=EMBED_DIM,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attn_implementation="eager",
        )
    )
    vision = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=192,
            intermediate_size=768,
            num_hidden_layers=6,
            num_attention_heads=3,
            image_size=SIZE,
            patch_size=16,
            projection_dim=EMBED_DIM,
            hidden_act="gelu",
            # 65 tokens: on a CPU it trains twice as fast as the fused kernel
            attn_implementation="eager",
        )
    )
    return text, vision


def clip_pixels(pixels: Tensor) -> Tensor:
    """[-1, 1] pixels as the vision encoder wants them."""
    return ((pixels + 1) / 2 - MEAN) / STD


def tokens_of(tokenizer: CLIPTokenizer, texts: list[str], device: str) -> dict[str, Tensor]:
    return {
        "input_ids": tokenizer(
            texts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        ).input_ids.to(device)
    }


def save_text_encoder(text: CLIPTextModelWithProjection, out: Path) -> None:
    """As a base model has it, and apart from that the projection into the space shared with
    pictures: for evaluation, which compares words with pictures."""
    text.text_model.half().save_pretrained(out / "text_encoder")
    save_file(
        {"weight": text.text_projection.weight.detach().half().cpu().contiguous()},
        out / "text_projection.safetensors",
    )


def save_image_encoder(vision: CLIPVisionModelWithProjection, out: Path) -> None:
    """With the processor that says which pixels it wants."""
    vision.half().save_pretrained(out / "image_encoder")
    CLIPImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    ).save_pretrained(out / "feature_extractor")
