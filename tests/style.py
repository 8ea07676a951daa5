"""T2I-Adapter's style adapter in small, and its formula by transformers' own blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from ipadapter_demo.adapter import StyleProjection
from tests.tiny import CROSS_DIM, VISION_WIDTH, randomise, seeded

DEPTH, INNER, TOKENS = 3, 24, 8


def style_state(cross_dim: int = CROSS_DIM, width: int = VISION_WIDTH) -> dict[str, Tensor]:
    """A file's content, with every weight random."""
    with seeded(40):
        made = StyleProjection(width, cross_dim, TOKENS, depth=DEPTH, inner=INNER)
        randomise(made)
    return {key: tensor.detach().clone() for key, tensor in made.state_dict().items()}


def style_tokens(state: dict[str, Tensor], hidden_states: Tensor) -> Tensor:
    """(B, sequence, width) -> (B, 8, cross_dim), by CLIP's encoder layers."""
    width = hidden_states.shape[-1]
    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=INNER, num_attention_heads=8, hidden_act="quick_gelu"
    )
    config._attn_implementation = "eager"

    def norm(name: str, states: Tensor) -> Tensor:
        return nn.functional.layer_norm(
            states, (width,), state[f"{name}.weight"], state[f"{name}.bias"]
        )

    learnt = state["style_embedding"].expand(len(hidden_states), -1, -1)
    states = norm("ln_pre", torch.cat([hidden_states, learnt], dim=1))
    for number in range(DEPTH):
        layer = CLIPEncoderLayer(config).eval()
        layer.load_state_dict(_clip_names(state, f"transformer_layes.{number}."))
        found = layer(states, attention_mask=None)
        states = found[0] if isinstance(found, tuple) else found
    return (norm("ln_post", states[:, -TOKENS:]) @ state["proj"]).detach()


def _clip_names(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    names = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }
    found = {
        f"{theirs}.{end}": state[f"{prefix}{ours}.{end}"]
        for ours, theirs in names.items()
        for end in ("weight", "bias")
    }
    for end in ("weight", "bias"):
        parts = state[f"{prefix}attn.in_proj_{end}"].chunk(3)
        for part, letter in zip(parts, "qkv", strict=True):
            found[f"self_attn.{letter}_proj.{end}"] = part
    return found
