"""Layers whose weights are kept in oneDNN's order."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ipadapter_demo.models import packed
from ipadapter_demo.models.packed import PACKED_BYTES, SIZES, pack
from ipadapter_demo.pipeline import ImagePromptPipeline

pytestmark = pytest.mark.skipif(not packed._gains(), reason="weights are packed on AVX CPUs alone")

LAYERS = {
    "convolution": (lambda: nn.Conv2d(48, 96, 3, padding=1), (3, 48, 16, 16)),
    "strided": (lambda: nn.Conv2d(48, 48, 3, stride=2, padding=1), (3, 48, 15, 16)),
    "in groups": (lambda: nn.Conv2d(32, 32, 3, padding=2, dilation=2, groups=4), (3, 32, 9, 9)),
    "without bias": (lambda: nn.Conv2d(4, 48, 3, padding=1, bias=False), (3, 4, 32, 32)),
    "pointwise": (lambda: nn.Conv2d(96, 192, 1), (3, 96, 8, 8)),
    "linear": (lambda: nn.Linear(96, 768), (3, 64, 96)),
    "linear without bias": (lambda: nn.Linear(192, 96, bias=False), (3, 32, 192)),
}


def both(name: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """A layer, a packed one of the same weights, and something to put in."""
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    plain = make()
    mine = nn.Sequential(copy.deepcopy(plain)).requires_grad_(False)
    pack(mine)
    assert type(mine[0]) is not type(plain)
    return plain, mine[0], torch.randn(shape)


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_results_are_those_of_the_plain_layer(name: str) -> None:
    plain, mine, given = both(name)
    wanted = plain(given)
    for laid in (given, given.contiguous(memory_format=_last(given))):
        torch.testing.assert_close(mine(laid), wanted, rtol=1e-5, atol=1e-5)
    assert mine.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_a_row_gets_the_same_bits_in_any_batch_and_after_any_size(name: str) -> None:
    _, mine, given = both(name)
    alone = torch.cat([mine(row[None]) for row in given])
    assert torch.equal(mine(given), alone)
    for size in range(SIZES + 1):  # as many as push the first one out
        mine(torch.cat([given, given], dim=-2 if given.ndim == 4 else 1)[..., : 5 + size, :])
    assert torch.equal(mine(given), alone)


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_changed_weights_count_from_the_next_call_on(name: str) -> None:
    """A LoRA is merged in place; `.to` puts another there."""
    plain, mine, given = both(name)
    before = mine(given)
    for layer in (plain, mine):
        layer.weight.mul_(2)
    torch.testing.assert_close(mine(given), plain(given), rtol=1e-5, atol=1e-5)
    assert not torch.equal(mine(given), before)
    for layer in (plain, mine):
        layer.double()
        layer.weight.div_(2)
        layer.float()
    assert torch.equal(mine(given), before)


def _last(given: Tensor) -> torch.memory_format:
    return torch.channels_last if given.ndim == 4 else torch.contiguous_format


@pytest.mark.parametrize("name", LAYERS)
def test_training_and_other_precisions_use_the_plain_layer(name: str) -> None:
    plain, mine, given = both(name)
    assert torch.equal(mine(given), plain(given))  # with gradients
    mine.requires_grad_(True)(given).sum().backward()
    assert mine.weight.grad is not None
    mine.requires_grad_(False)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mine(given), plain(given))
    with torch.no_grad():
        assert torch.equal(mine.double()(given.double()), plain.double()(given.double()))


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_weights_that_learn_count_at_once(name: str) -> None:
    """Averages of them are put there, and taken away, unseen by their version. peft makes a LoRA's
    layers of the type of those beside them."""
    plain, mine, given = both(name)
    mine.requires_grad_(True)
    mine(given)
    for layer in (plain, mine):
        layer.weight.data.copy_(2 * layer.weight)
    assert torch.equal(mine(given), plain(given))


def test_one_picture_without_a_batch_and_weights_of_inference_mode() -> None:
    plain, mine, given = both("convolution")
    with torch.no_grad():
        assert torch.equal(mine(given[0]), plain(given[0]))
    with torch.inference_mode():
        made = nn.Sequential(nn.Linear(8, 8)).requires_grad_(False)
        pack(made)
        given = torch.randn(1, 4, 8)
        assert torch.equal(made(given), nn.functional.linear(given, made[0].weight, made[0].bias))


@torch.no_grad()
def test_a_copy_of_a_layer_that_was_used_has_an_order_of_its_own() -> None:
    plain, mine, given = both("convolution")
    mine(given)
    other = copy.deepcopy(mine)
    other.weight.zero_()
    torch.testing.assert_close(mine(given), plain(given), rtol=1e-5, atol=1e-5)
    assert torch.equal(other(given), other.bias[None, :, None, None].expand_as(other(given)))


def test_large_networks_and_other_paddings_stay_as_they_are() -> None:
    side = int((PACKED_BYTES / 4) ** 0.5)
    large = nn.Sequential(nn.Linear(side, side), nn.Linear(4, 4))
    pack(large)
    assert [type(layer) for layer in large] == [nn.Linear, nn.Linear]
    round_the_edge = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"))
    pack(round_the_edge)
    assert type(round_the_edge[0]) is nn.Conv2d


def test_a_small_model_is_packed(pipeline: ImagePromptPipeline) -> None:
    unet = pipeline._model.unet
    plain = [type(m) for m in unet.modules() if type(m) in (nn.Conv2d, nn.Linear)]
    assert not plain
