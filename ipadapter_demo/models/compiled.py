"""Networks compiled by torch (`--compile`): the UNet, ControlNets and the autoencoder's decoder.

Compiled is what runs at the model's own size with prompts of one window; all else runs as without
it, so that no visitor waits for a compiler. Image prompts come by number, timesteps as float32 and
one a row, weights as tensors: no λ, reference, mask, guidance, sampler or number of steps makes
another graph. One graph serves batches of any size, and one a single row (a picture without
guidance); a UNet that reads residuals of structure networks has graphs of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ipadapter_demo.adapter import ImagePrompt, numbered
from ipadapter_demo.errors import ModelError
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.models.weights import reason

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel


def check_compiler(device: str, options: LoadOptions) -> None:
    """Compile next to nothing. Raises ModelError where that fails, or cannot help."""
    if options.offload or options.tiling:
        raise ModelError("compile goes with neither offload nor tiling")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder()))
    try:
        with torch.no_grad():
            torch.compile(torch.sin)(torch.ones(8, device=device))
    except Exception as error:  # of whichever tool is missing
        raise ModelError(
            "compile: torch cannot compile here: leave --compile out, or install a C++ compiler "
            f"(g++) and Python's headers. {reason(error)}"
        ) from error


def compile_network(
    network: nn.Module, side: int, backend: str = "inductor", tokens: int | None = None
) -> None:
    """From now on for square latents of `side` cells, and text of `tokens`, at the first call. Its
    class and the values of its weights stay; they lie with channels last, which compiled code is
    faster with."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.compile(backend=backend)
    network.compiled_side = side  # type: ignore[assignment]
    network.compiled_tokens = tokens  # type: ignore[assignment]


def cache_folder() -> Path:
    """Of what was compiled, for the next start."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user) / "ipadapter-demo" / "compiled"


def compile_decoder(
    autoencoder: AutoencoderTiny | AutoencoderKL, side: int, backend: str = "inductor"
) -> None:
    compile_network(autoencoder.decoder, side, backend)
    autoencoder.compiled_side = side


def compiled_side(network: nn.Module) -> int | None:
    """The side of the latents that a network is compiled for; None where it is not."""
    return getattr(network, "compiled_side", None)


@contextmanager
def by_size(network: nn.Module, latents: Tensor, text: Tensor | None = None) -> Iterator[bool]:
    """Whether it runs compiled on latents (B, C, h, w) and text (B, tokens, C), which have to be
    `uniform` then; if not, it runs as it is within."""
    side = compiled_side(network)
    tokens = getattr(network, "compiled_tokens", None)
    fits = latents.shape[-2:] == (side, side)
    fits = fits and (text is None or tokens in (None, text.shape[1]))
    eager = side is not None and not fits
    with torch.compiler.set_stance("force_eager") if eager else nullcontext():
        yield fits


def unet_output(
    unet: UNet2DConditionModel,
    latents: Tensor,
    t: Tensor,
    prompts: Sequence[ImagePrompt],
    **arguments: Any,
) -> Tensor:
    """The UNet's output for latents (B, C, h, w) at t, a scalar or (B,)."""
    text = arguments["encoder_hidden_states"]
    with by_size(unet, latents, text) as compiled, numbered(prompts) as number:
        if compiled:
            latents, t = uniform(latents), _timesteps(t, latents)
            arguments = _all_uniform(arguments)
            handed: dict[str, object] | None = {"ip_hidden_states": number}
        else:
            handed = {"ip_hidden_states": prompts} if prompts else None
        return unet(latents, t, cross_attention_kwargs=handed, **arguments).sample


def controlnet_output(
    net: ControlNetModel, latents: Tensor, t: Tensor, weight: float, **arguments: Any
) -> tuple[Sequence[Tensor], Tensor]:
    """Residuals of the skips and of the middle block."""
    with by_size(net, latents, arguments["encoder_hidden_states"]) as compiled:
        scale: float | Tensor = weight
        if compiled:
            latents, t = uniform(latents), _timesteps(t, latents)
            arguments = _all_uniform(arguments)
            scale = torch.tensor(weight)
        return net(latents, t, conditioning_scale=scale, return_dict=False, **arguments)


def _timesteps(t: Tensor, latents: Tensor) -> Tensor:
    return uniform(t.to(latents.device, torch.float32).expand(len(latents)))


def uniform(given: Tensor) -> Tensor:
    """As one graph takes it: in one memory layout, its first axis a batch of any size."""
    layout = torch.channels_last if given.ndim == 4 else torch.contiguous_format
    given = given.contiguous(memory_format=layout)
    torch._dynamo.maybe_mark_dynamic(given, 0)
    return given


def _all_uniform(arguments: dict[str, Any]) -> dict[str, Any]:
    return tree_map_only(Tensor, uniform, arguments)
