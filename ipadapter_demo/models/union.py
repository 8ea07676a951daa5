"""ControlNet Union: one network for SDXL that reads several kinds of map
(https://huggingface.co/xinsir/controlnet-union-sdxl-1.0)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.structure import ControlCondition, ControlResiduals
from ipadapter_demo.models.weights import network_from_weights

if TYPE_CHECKING:
    from diffusers import ControlNetUnionModel, UNet2DConditionModel

_KEY = "task_embedding"  # of all its files
# By the kind of map, the number of its type in the network, as its authors number them; the last
# two are of the larger file alone, "promax".
TYPES = {
    "openpose": 0,
    "depth": 1,
    "softedge": 2,
    "scribble": 2,
    "canny": 3,
    "lineart": 3,
    "lineart-fine": 3,
    "mlsd": 3,
    "normal": 4,
    "segmentation": 5,
    "tile": 6,
    "repaint": 7,
}


def is_union(tensors: Mapping[str, Tensor]) -> bool:
    return any(key.endswith(_KEY) for key in tensors)


def union_of(
    tensors: Mapping[str, Tensor], unet: UNet2DConditionModel, dtype: torch.dtype, name: str
) -> ControlNetUnionModel:
    """From the tensors of the file `name`. What they do not tell is as in the UNet that the network
    was copied from. Raises ModelError."""
    from diffusers import ControlNetUnionModel

    if unet.config.addition_time_embed_dim is None:
        raise ModelError(f"{name} is a ControlNet Union, which only SDXL has")
    taken = inspect.signature(ControlNetUnionModel.__init__).parameters
    config = {key: value for key, value in unet.config.items() if key in taken}
    task, first = tensors.get(_KEY), tensors.get("controlnet_cond_embedding.conv_in.weight")
    if task is None or first is None:
        raise ModelError(f"{name} is no ControlNet Union in diffusers' layout")
    blocks = "controlnet_cond_embedding.blocks."
    odd = sorted(
        (int(key.removeprefix(blocks).split(".")[0]), tensor.shape[0])
        for key, tensor in tensors.items()
        if key.startswith(blocks) and key.endswith(".weight")
    )[1::2]
    layers = {key.split(".")[1] for key in tensors if key.startswith("transformer_layes.")}
    config |= {
        "in_channels": tensors["conv_in.weight"].shape[1] if "conv_in.weight" in tensors else 4,
        "conditioning_embedding_out_channels": (first.shape[0], *(width for _, width in odd)),
        "num_control_type": task.shape[0],
        "num_trans_channel": task.shape[1],
        "num_trans_layer": len(layers),
        "num_proj_channel": task.shape[1],
    }
    return network_from_weights(
        lambda: ControlNetUnionModel(**config),
        tensors,
        dtype,
        f"{name}: the weights of the ControlNet Union",
    )


@dataclass(frozen=True, slots=True, eq=False)
class UnionStructure:
    """A ControlNet Union, as it reads one kind of map. Several structures by one network are added,
    as diffusers adds those of several networks. Raises ModelError for a kind that it does not
    have."""

    net: ControlNetUnionModel
    kind: str
    conditional_only: ClassVar[bool] = False

    @property
    def type(self) -> str:
        """Of the maps: a catalogue has it behind `union-`, beside a network of its own."""
        return self.kind.removeprefix("union-")

    def __post_init__(self) -> None:
        known = [name for name, number in TYPES.items() if number < self._types]
        if self.type not in known:
            raise ModelError(f"a ControlNet Union reads maps of {', '.join(known)}")

    @property
    def _types(self) -> int:
        return self.net.config.num_control_type

    def read(self, map_pixels: Tensor) -> ControlCondition:
        from ipadapter_demo.models.map_embedding import embedded

        pixels = map_pixels.to(self.net.device, self.net.dtype)
        return ControlCondition(self, (embedded(self.net, pixels),))

    def residuals(
        self,
        seen: tuple[Tensor, ...],
        noisy: Tensor,
        timestep: Tensor,
        text_states: Tensor,
        weight: float,
        added: dict[str, Tensor] | None,
    ) -> ControlResiduals:
        number = TYPES[self.type]
        types = noisy.new_zeros(len(noisy), self._types)
        types[:, number] = 1
        skips, middle = self.net(
            noisy,
            timestep,
            encoder_hidden_states=text_states,
            controlnet_cond=[seen[0]],
            control_type=types,
            control_type_idx=[number],
            conditioning_scale=weight,
            added_cond_kwargs=added,
            return_dict=False,
        )
        return ControlResiduals(skips=tuple(skips), middle=middle)
