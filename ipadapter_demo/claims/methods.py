"""Six ways to give a picture to a text-to-image model, under one interface.

Each is built on a copy of the testbed's base, trained on the same pictures for the same steps, and
makes the arguments of the UNet at one step. λ is what each has for it: the weight of the image
branch, of the image tokens in the softmax, or of a ControlNet's residuals."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from ipadapter_demo.adapter import ImageAdapter, ImagePrompt, LinearProjection, Resampler, attach
from ipadapter_demo.claims.testbed import Reads, Testbed
from ipadapter_demo.models.structure import ControlNetStructure

# (what was read of the pictures, text states, noisy latents, timestep, λ) -> the UNet's arguments
Arguments = Callable[[Tensor, Tensor, Tensor, Tensor, float], dict[str, object]]


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    name: str
    unet: UNet2DConditionModel
    trained: nn.Module  # all that learns, and nothing else
    reads: Reads
    lr: float
    arguments: Arguments

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.trained.parameters())


def image_adapter(testbed: Testbed) -> Method:
    """The paper's: an attention of its own for image tokens in every cross-attention layer."""
    return _decoupled("image adapter", testbed, _four_tokens(testbed), "embeds", 3e-3)


def plus_adapter(testbed: Testbed) -> Method:
    """The same with 16 tokens of the encoder's patches, which `style_adapter` reads as well."""
    return _decoupled("image adapter, Plus", testbed, _patch_tokens(testbed, 16), "patches", 1e-3)


def _decoupled(
    name: str, testbed: Testbed, projection: LinearProjection | Resampler, reads: Reads, lr: float
) -> Method:
    unet = copy.deepcopy(testbed.unet)
    adapter = ImageAdapter.for_unet(unet, projection)
    attach(unet, adapter)

    def arguments(
        inputs: Tensor, text: Tensor, noisy: Tensor, t: Tensor, scale: float
    ) -> dict[str, object]:
        tokens = adapter.tokens_from_embeds(inputs)
        prompt = ImagePrompt(rows=slice(None), tokens=tokens, scale=scale)
        return {
            "encoder_hidden_states": text,
            "cross_attention_kwargs": {"ip_hidden_states": (prompt,)},
        }

    return Method(name, unet, adapter, reads, lr, arguments)


def simple_adapter(testbed: Testbed) -> Method:
    """The ablation of section 4.4.1: the same tokens beside the text's, in one softmax."""
    projection = _four_tokens(testbed)
    return Method(
        "simple adapter",
        copy.deepcopy(testbed.unet),
        projection,
        "embeds",
        1e-3,
        _joined(projection),
    )


def full_fine_tuning(testbed: Testbed) -> Method:
    """The same as the simple adapter, with every weight of the UNet free to follow."""
    unet = copy.deepcopy(testbed.unet).requires_grad_(True)
    projection = _four_tokens(testbed)
    both = nn.ModuleDict({"unet": unet, "projection": projection})
    return Method("full fine-tuning", unet, both, "embeds", 1e-3, _joined(projection))


def style_adapter(testbed: Testbed) -> Method:
    """In the manner of T2I-Adapter's style adapter: 8 tokens that a small transformer makes of the
    encoder's patches join the text tokens
    (https://github.com/TencentARC/T2I-Adapter/blob/SD/ldm/modules/encoders/adapter.py)."""
    tokens = _patch_tokens(testbed, 8)
    return Method(
        "T2I-Adapter, style", copy.deepcopy(testbed.unet), tokens, "patches", 3e-4, _joined(tokens)
    )


def shuffle_controlnet(testbed: Testbed) -> Method:
    """A ControlNet that reads the picture with its content shuffled."""
    unet = copy.deepcopy(testbed.unet)
    net = ControlNetModel.from_unet(
        unet, conditioning_channels=3, conditioning_embedding_out_channels=(16, 32, 64)
    )
    net.set_attn_processor(AttnProcessor())
    net.requires_grad_(True).to(memory_format=torch.channels_last)
    structure = ControlNetStructure(net)

    def arguments(
        inputs: Tensor, text: Tensor, noisy: Tensor, t: Tensor, scale: float
    ) -> dict[str, object]:
        residuals = structure.read(inputs)(noisy, t, text, scale)
        return {"encoder_hidden_states": text} | residuals.unet_arguments()

    return Method("ControlNet, shuffle", unet, net, "shuffled", 1e-3, arguments)


METHODS: tuple[Callable[[Testbed], Method], ...] = (
    image_adapter,
    plus_adapter,
    simple_adapter,
    full_fine_tuning,
    style_adapter,
    shuffle_controlnet,
)


# (method, learning rate, seeds). Each method has the best of the rates tried with three seeds.
TRIED: tuple[tuple[Callable[[Testbed], Method], float, tuple[int, ...]], ...] = (
    (image_adapter, 3e-4, (0,)),
    (image_adapter, 1e-3, (0, 1, 2)),
    (image_adapter, 3e-3, (0, 1, 2)),
    (image_adapter, 1e-2, (0, 1, 2)),
    (plus_adapter, 1e-3, (0, 1, 2)),
    (plus_adapter, 3e-3, (0,)),
    (simple_adapter, 3e-4, (0,)),
    (simple_adapter, 1e-3, (0, 1, 2)),
    (simple_adapter, 3e-3, (0, 1, 2)),
    (full_fine_tuning, 3e-4, (0, 1, 2)),
    (full_fine_tuning, 1e-3, (0, 1, 2)),
    (full_fine_tuning, 3e-3, (0,)),
    (style_adapter, 3e-4, (0, 1, 2)),
    (style_adapter, 1e-3, (0, 1, 2)),
    (shuffle_controlnet, 1e-3, (0, 1, 2)),
)


def at_rate(build: Callable[[Testbed], Method], lr: float) -> Callable[[Testbed], Method]:
    """A method with another learning rate."""
    return lambda testbed: replace(build(testbed), lr=lr)


def _four_tokens(testbed: Testbed) -> LinearProjection:
    return LinearProjection(
        testbed.encoder.config.projection_dim, testbed.unet.config.cross_attention_dim
    )


def _patch_tokens(testbed: Testbed, count: int) -> Resampler:
    width = testbed.encoder.config.hidden_size
    return Resampler(
        width,
        testbed.unet.config.cross_attention_dim,
        count,
        width=width,
        depth=3,
        heads=width // 64,
    )


def _joined(tokens_of: nn.Module) -> Arguments:
    """Image tokens after the text's. λ multiplies their share before the softmax divides: its
    logarithm is added to their logits, so 0 leaves the text alone."""

    def arguments(
        inputs: Tensor, text: Tensor, noisy: Tensor, t: Tensor, scale: float
    ) -> dict[str, object]:
        if scale == 0.0:
            return {"encoder_hidden_states": text}
        tokens = tokens_of(inputs)
        joined: dict[str, object] = {"encoder_hidden_states": torch.cat([text, tokens], dim=1)}
        if scale != 1.0:
            # diffusers turns this mask m into the bias (1 - m) · -10000, in the latents' precision
            keep = torch.ones(len(text), text.shape[1] + tokens.shape[1])
            keep[:, text.shape[1] :] += math.log(scale) / 10_000
            joined["encoder_attention_mask"] = keep
        return joined

    return arguments
