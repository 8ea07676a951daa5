"""Precision by hardware, and how a large model fits into a small memory."""

from __future__ import annotations

import timeit
from collections.abc import Sequence
from functools import cache

import torch
from torch import nn

from ipadapter_demo.models.packed import pack
from ipadapter_demo.models.weights import Network
from ipadapter_demo.own_thread import in_own_thread

ALIGNMENT = 64  # bytes


def best_dtype(device: str, small: bool) -> torch.dtype:
    """Half precision where the hardware has it; float32 elsewhere, and for models so small that
    half precision gains nothing."""
    if device.startswith("cuda"):
        return torch.float16
    if device == "cpu" and not small and has_bfloat16(device):
        return torch.bfloat16
    return torch.float32


def has_bfloat16(device: str) -> bool:
    """True for a device that multiplies in bfloat16, as it is asked or, for a CPU, measured."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and _bfloat16_is_faster()


@cache
def _bfloat16_is_faster() -> bool:
    """By products of matrices. A CPU without bfloat16 emulates it many times slower, one with it
    is at least half as fast again; names of instruction sets do not tell whether they are used."""

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(256, 256, dtype=dtype)
        return min(timeit.repeat(lambda: matrix @ matrix, number=3, repeat=5))

    return in_own_thread(lambda: seconds(torch.bfloat16) < 0.8 * seconds(torch.float32))


def settled(network: Network, device: torch.device | str) -> Network:
    """The network where it stays, as fast as it can be there; nothing of it learns."""
    pack(network)
    return aligned(network.to(device)).eval().requires_grad_(False)


@torch.no_grad()
def aligned(network: Network) -> Network:
    """The network, its weights where torch itself puts tensors. In a mapped file they lie anywhere,
    and MKL rounds by that: equal weights of two files would give other bits."""
    for weight in network.parameters():
        if weight.data_ptr() % ALIGNMENT:
            weight.data = weight.detach().clone()
    return network


def take_turns(networks: Sequence[nn.Module], device: str) -> None:
    """Keep networks in the machine's memory; each moves to `device` when it is called, and the one
    before it in the sequence moves back. accelerate's hooks, in the order of diffusers' pipelines.
    """
    from accelerate import cpu_offload_with_hook

    hook = None
    for network in networks:
        _, hook = cpu_offload_with_hook(network, device, hook)
