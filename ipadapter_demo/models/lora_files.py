"""The layers that a LoRA's file changes, whoever wrote it: their tensors under LyCORIS' names.

| Key | Written by |
|---|---|
| `lora_unet_mid_block_... .lora_down.weight`, `.alpha`, `.dora_scale` | kohya's trainer, LyCORIS |
| `lycoris_mid_block... .lokr_w1`, of the UNet alone | LyCORIS in others' trainers |
| `unet.mid_block... .lora_A.weight`, `.lora_magnitude_vector` | diffusers, alpha in the header |
| `unet... .lora.down.weight`, `text_encoder... .lora_linear_layer.down.weight` | diffusers before |
| `mid_block... .processor.to_q_lora.down.weight` | diffusers' first, of the UNet alone |
| `diffusion_model.middle_block... .lora_down.weight` | trainers that keep the first code's names |
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import sqrt
from typing import Any

from torch import Tensor

from ipadapter_demo.errors import ModelError, some_of

Change = dict[str, Tensor]  # the tensors of one layer, by the last part of their names

TRAINERS = ("lora_unet_", "lora_te", "lycoris_")  # names without dots
_SCALED = ("lora_up.weight", "hada_w1_a", "lokr_w1", "lokr_w1_a")  # a factor of each kind
_FACTORS = ("lora_up.weight", "lora_down.weight", "hada_", "lokr_")
_NOT_READ = {
    "on_input": "IA3",
    "oft_blocks": "OFT",
    "oft_diag": "OFT",
    "diff": "whole differences of weights",
    "diff_b": "whole differences of biases",
    "lora_up.bias": "changes of biases",
    "w_norm": "changes of norms",
    "b_norm": "changes of norms",
    "a1.weight": "GLoRA",
}
# in order: what others call a part of a key -> LyCORIS' name
_PARTS = (
    (r"\.(lora_[AB])\.\w+\.(weight|bias)$", r".\1.\2"),  # a name that peft knows it by
    (r"\.processor\.", "."),
    (r"\.to_(\w+)_lora\.", r".to_\1.lora."),
    (r"\.self_attn\.to_(\w+)\.lora", r".self_attn.\1_proj.lora"),
    (r"\.to_out\.lora", ".to_out.0.lora"),
    (r"\.(lora_A|lora\.down|lora_linear_layer\.down)\.", ".lora_down."),
    (r"\.(lora_B|lora\.up|lora_linear_layer\.up)\.", ".lora_up."),
    (r"\.lora_magnitude_vector(\.\w+)*$", ".magnitudes"),
    (r"\.(lora|lora_linear_layer)\.alpha$", ".alpha"),
)
_TENSOR = re.compile(
    r"\.(lora_\w+\.(weight|bias)|hada_\w+|lokr_\w+|alpha|dora_scale|magnitudes|"
    rf"{'|'.join(map(re.escape, _NOT_READ))})$"
)


def layers_of(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> dict[str, Change]:
    """By the names that the file gives its layers.

    Raises ModelError for a kind that is not read here, which it names.
    """
    layers: dict[str, Change] = {}
    alien = []
    for key, tensor in tensors.items():
        if key.startswith("bundle_emb."):
            continue  # an embedding that was trained with it is for the prompt
        if key.startswith("base_model.model."):
            raise ModelError(
                "it is as peft saves it, with its strength in an adapter_config.json: write it by "
                "diffusers' save_lora_weights"
            )
        layer, name = _layer_and_tensor(key)
        if name:
            layers.setdefault(layer, {})[name] = tensor
        else:
            alien.append(key)
    for layer, change in layers.items():
        if kind := next((_NOT_READ[name] for name in change if name in _NOT_READ), None):
            raise ModelError(
                f"it holds {kind} ({layer}), which is not read: LoRA, LoCon, LoHa and LoKr are"
            )
        if not any(name.startswith(_FACTORS) for name in change):
            alien += [f"{layer}.{name}" for name in change]
        elif {"dora_scale", "magnitudes"} & change.keys() and "lora_up.weight" not in change:
            raise ModelError(
                f"it holds DoRA's scale beside LoHa or LoKr ({layer}), which is not read"
            )
        if "magnitudes" in change:  # of outputs, whatever its axes
            change["dora_scale"] = change.pop("magnitudes").reshape(-1, 1)
    if alien or not layers:
        raise ModelError(f"it holds {some_of(alien) or 'nothing'}, which is no part of a LoRA")
    if settings := header.get("lora_adapter_metadata"):
        _scale(layers, settings)
    return layers


def _layer_and_tensor(key: str) -> tuple[str, str]:
    name = key
    for theirs, ours in _PARTS:
        name = re.sub(theirs, ours, name)
    if found := _TENSOR.search(name):
        return name[: found.start()], found[1]
    layer, _, name = key.partition(".")
    return (layer, name) if key.startswith(TRAINERS) else (key, "")


def _scale(layers: Mapping[str, Change], settings: str) -> None:
    """By the strength in peft's settings of each network, which diffusers writes into the header:
    `unet.r`, `unet.lora_alpha`, ..., or without a name those of the one network there is."""
    from peft.utils.other import get_pattern_key

    try:
        said: dict[str, Any] = dict(json.loads(settings))
    except (ValueError, TypeError):
        raise ModelError("its header has lora_adapter_metadata that are no JSON object") from None
    for layer, change in layers.items():
        network, _, place = layer.partition(".")
        own = {key.removeprefix(f"{network}."): value for key, value in said.items()}
        if own == said:
            place = layer
        alpha: float | None = own.get("lora_alpha", own.get("alpha"))
        if alpha is None or "alpha" in change:
            continue
        alphas: dict[str, float] = own.get("alpha_pattern") or {}
        ranks: dict[str, float] = own.get("rank_pattern") or {}
        alpha = alphas.get(get_pattern_key([*alphas], place), alpha)
        rank: float = ranks.get(get_pattern_key([*ranks], place), own["r"])
        if own.get("use_rslora"):  # arXiv 2312.03732
            rank = sqrt(rank)
        for name in _SCALED:
            if name in change:
                change[name] = change[name].float() * (alpha / rank)
