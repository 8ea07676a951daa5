"""LoRA, LoHa, LoKr and DoRA, merged into the layers that they change.

Names and formulas are those of LyCORIS (arXiv 2309.14859, sections 3.2 and 3.3, and
https://github.com/KohakuBlueleaf/LyCORIS), which most files are written with. diffusers passes over
layers that the model lacks, and leaves the magnitudes of such a DoRA (arXiv 2402.09353) out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from ipadapter_demo.errors import ModelError, some_of
from ipadapter_demo.models.first_code import first_code_names
from ipadapter_demo.models.lora_files import TRAINERS, Change
from ipadapter_demo.models.parts import Parts


@torch.no_grad()
def merge(
    parts: Parts,
    changes: Mapping[str, Change],
    weight: float,
    keep: Callable[[nn.Parameter], None],
) -> None:
    """Add `weight` times each change to the layer it names, which is kept before, one after the
    other: all of them are larger than the model. Raises ModelError before anything is changed where
    a layer is not the model's; where one is of another shape, some may be changed and are kept."""
    layers, names = dict(_layers(parts)), _names(parts, changes)
    if alien := [name for name in changes if names.get(name) not in layers]:
        few = f"{some_of(alien)}, which {'are no layers' if alien[1:] else 'is no layer'}"
        raise ModelError(f"it changes {few} of this model's")
    for name, change in changes.items():
        parameter = layers[names[name]]
        delta = delta_of({key: value.to(parameter.device) for key, value in change.items()})
        if delta.numel() != parameter.numel() or len(delta) != len(parameter):
            raise ModelError(
                f"its change of {name} is {tuple(delta.shape)}, where the model has "
                f"{tuple(parameter.shape)}"
            )
        delta = delta.reshape(parameter.shape)
        if "dora_scale" in change:
            scale = change["dora_scale"].to(delta)
            delta = _with_magnitudes(name, parameter.float(), delta, scale)
        keep(parameter)
        parameter.copy_(parameter.float() + weight * delta)


def _with_magnitudes(name: str, plain: Tensor, delta: Tensor, magnitudes: Tensor) -> Tensor:
    """The change of DoRA (arXiv 2402.09353, equation 5) to a weight (out, in, ...): `delta` turns
    its direction, and then it has these magnitudes, one for each output (out, 1, ...), or for each
    input (1, in, ...) in LyCORIS' older files."""
    changed = plain + delta
    for kept in (0, 1):
        if magnitudes.numel() == plain.shape[kept] and len(magnitudes) == (plain.shape[0], 1)[kept]:
            others = [axis for axis in range(plain.ndim) if axis != kept]
            norm = torch.linalg.vector_norm(changed, dim=others, keepdim=True)
            return changed * magnitudes.reshape(norm.shape) / norm - plain
    raise ModelError(
        f"its DoRA magnitudes of {name} are {tuple(magnitudes.shape)}, where the "
        f"model's weight is {tuple(plain.shape)}"
    )


def _names(parts: Parts, given: Iterable[str]) -> dict[str, str]:
    """The layers of a file -> those of the model, as `_layers` calls them. Raises ModelError for
    one that it holds twice."""
    one = len(parts.text_encoders) == 1  # which either family's files call `te` or `te1`
    first = "lora_te_" if one else "lora_te1_"
    prefixes = {"text_encoder": first, "text_encoder_2": "lora_te2_"}
    older = {
        f"lora_unet_{theirs}".replace(".", "_"): f"lora_unet_{ours}".replace(".", "_")
        for ours, theirs in first_code_names(parts.unet).items()
    }
    named: dict[str, str] = {}
    for name in given:
        network, _, place = name.removeprefix("model.").partition(".")
        if name.startswith(TRAINERS):
            found = re.sub(r"^lora_te1?_", first, name.replace("lycoris_", "lora_unet_"))
        elif network in prefixes:
            if place != "text_projection":
                place = "text_model." + place.removeprefix("text_model.")
            found = prefixes[network] + place
        else:  # the UNet's, with or without its name
            found = "lora_unet_" + (place if network in ("unet", "diffusion_model") else name)
        found = found.replace(".", "_")
        found = older.get(found, found)
        if found in named:
            raise ModelError(f"it changes {named[found]} twice, also as {name}")
        named[found] = name
    return {name: found for found, name in named.items()}


def delta_of(change: Change) -> Tensor:
    """The change of a weight (out, in, ...), scaled by alpha / rank, in float32."""
    values = {name: tensor.float() for name, tensor in change.items()}
    try:
        if {"lora_up.weight", "lora_down.weight"} & values.keys():
            rank = len(values["lora_down.weight"])
            delta = _low_rank_of_lora(values)
        elif "hada_w1_a" in values:
            rank = len(values["hada_w1_b"])
            delta = _low_rank(values, "hada_w1", "hada_t1") * _low_rank(
                values, "hada_w2", "hada_t2"
            )
        else:
            first, second = _factor(values, "lokr_w1"), _factor(values, "lokr_w2")
            first = first.reshape(first.shape + (1,) * (second.ndim - first.ndim))
            delta = torch.kron(first.contiguous(), second.contiguous())
            inner = [values[name] for name in ("lokr_w1_b", "lokr_w2_b") if name in values]
            rank = len(inner[0]) if inner else 0  # two whole factors have none: no scale
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"its factors {sorted(change)} do not fit each other: {error}") from error
    alpha = values.get("alpha")
    return delta if alpha is None or not rank else delta * float(alpha) / rank


def _low_rank_of_lora(values: Change) -> Tensor:
    """(out, rank, 1, 1) and (rank, in, height, width) of a convolution; with a core between them
    (rank, rank, height, width), (rank, in, 1, 1)."""
    up, down = values["lora_up.weight"].flatten(1), values["lora_down.weight"].flatten(1)
    if "lora_mid.weight" not in values:
        return up @ down
    return torch.einsum("ijhw,pi,jq->pqhw", values["lora_mid.weight"], up, down)


def _factor(values: Change, name: str) -> Tensor:
    """A factor of LoKr, whole or of low rank."""
    return values[name] if name in values else _low_rank(values, name, name.replace("_w", "_t"))


def _low_rank(values: Change, name: str, core: str) -> Tensor:
    """(out, rank) @ (rank, in); of a convolution with a core (rank, rank, height, width) between
    them, whose first matrix is then (rank, out)."""
    one, other = values[f"{name}_a"], values[f"{name}_b"]
    if core not in values:
        return one @ other.flatten(1)
    return torch.einsum("ijhw,ip,jq->pqhw", values[core], one, other)


def _layers(parts: Parts) -> Iterator[tuple[str, nn.Parameter]]:
    """The weight of every layer, by the name that such files give it."""
    several = len(parts.text_encoders) > 1
    for number, encoder in enumerate(parts.text_encoders, 1):
        prefix = f"lora_te{number}" if several else "lora_te"
        for name, module in encoder.named_modules():
            if name != "text_projection":
                name = "text_model." + name.removeprefix("text_model.")
            if isinstance(weight := getattr(module, "weight", None), nn.Parameter):
                yield f"{prefix}_{name.replace('.', '_')}", weight
    for name, module in parts.unet.named_modules():
        if isinstance(weight := getattr(module, "weight", None), nn.Parameter):
            yield f"lora_unet_{name.replace('.', '_')}", weight
