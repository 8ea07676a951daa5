"""Precision by hardware, and how a large model fits into a small memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def best_dtype(device: str, small: bool) -> torch.dtype:
    """Half precision where the hardware has it; float32 elsewhere, and for models so small that
    half precision gains nothing."""
    if device.startswith("cuda"):
        return torch.float16
    if device == "cpu" and not small and has_bfloat16(device):
        return torch.bfloat16
    return torch.float32


def has_bfloat16(device: str) -> bool:
    """True for a device that multiplies in bfloat16. A CPU that emulates it is many times slower
    than in float32."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def take_turns(networks: Sequence[nn.Module], device: str) -> None:
    """Keep networks in the machine's memory; each moves to `device` when it is called, and the one
    before it in the sequence moves back. accelerate's hooks, in the order of diffusers' pipelines.
    """
    from accelerate import cpu_offload_with_hook

    hook = None
    for network in networks:
        _, hook = cpu_offload_with_hook(network, device, hook)
