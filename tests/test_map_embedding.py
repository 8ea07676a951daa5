"""What a ControlNet makes of its map alone is computed once a request, and is what it was."""

from __future__ import annotations

import pytest
import torch
from diffusers import ControlNetModel

from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.models.map_embedding import embedded
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.request import GenerateRequest, Structure
from tests.tiny import picture


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_an_embedded_map_gives_the_residuals_of_the_map(order: str) -> None:
    """Of the built-in network, for either order of channels that a configuration may ask for."""
    net = ControlNetModel.from_pretrained(TABLETOP.folder / "controlnet-canny").float()
    net.register_to_config(controlnet_conditioning_channel_order=order)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    noisy, states, pixels = normal(2, 4, 32, 32), normal(2, 32, 192), normal(1, 3, 128, 128)

    @torch.no_grad()
    def residuals(condition: torch.Tensor) -> list[torch.Tensor]:
        rows = condition.expand(2, -1, -1, -1)
        skips, middle = net(noisy, 500, states, rows, return_dict=False)
        return [*skips, middle]

    expected, weights = residuals(pixels), {*net.state_dict()}
    assert not torch.allclose(residuals(pixels.flip(1))[0], expected[0])
    with torch.no_grad():
        condition = embedded(net, pixels)
    assert condition.shape == (1, net.config.block_out_channels[0], 32, 32)
    for ours, theirs in zip(residuals(condition), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    for again, theirs in zip(residuals(pixels), expected, strict=True):  # a map is read as before
        assert torch.equal(again, theirs)
    assert {*net.state_dict()} == weights


def test_the_map_is_embedded_once_for_all_steps_and_requests(
    pipeline: ImagePromptPipeline,
) -> None:
    def asked(number: int, steps: int) -> GenerateRequest:
        structure = Structure(kind="canny", image=picture(number), annotator="none")
        return GenerateRequest(structures=(structure,), steps=steps, guidance=3.0)

    pipeline.generate(asked(3, 1))  # loads the network
    [net] = [each.net for each in pipeline._model.structures.loaded() if "ControlNet" in str(each)]
    seen: list[str] = []
    hooks = [
        each.register_forward_hook(lambda *_, name=name: seen.append(name))
        for name, each in (("map", net.controlnet_cond_embedding.conv_in), ("step", net))
    ]
    pipeline.generate(asked(4, 3))
    pipeline.generate(asked(4, 2))
    for hook in hooks:
        hook.remove()
    assert seen == ["map", *["step"] * 5]
