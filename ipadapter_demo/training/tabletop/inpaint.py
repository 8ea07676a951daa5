"""Inpainting recipe: a T2I-Adapter that reads what is left of a picture around a hole.

A base that never met a hole learns of the rest of the picture through its noise alone. Where that
is strongest, places, sizes and tints are settled, blind to the rest, and later steps can only make
the best of it. This network tells the base in every step, guided or not. It is trained on what it
is for: one solid of a scene is masked, with its shadow or without, and the image adapter, given
such a solid from a scene of another floor, wall and light, acts inside the mask alone.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import T2IAdapter
from torch import Tensor

from ipadapter_demo.adapter import ImagePrompt, attach, load_image_adapter
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.models.structure import T2IAdapterStructure, around_hole
from ipadapter_demo.tabletop.caption import CaptionStyle, caption
from ipadapter_demo.tabletop.erase import painted_over, traces
from ipadapter_demo.tabletop.render import places_of_solids, reach_of_solids
from ipadapter_demo.tabletop.scene import COLOURS, SECOND_COLOURS, SHAPES, TEXTURES, Scenes
from ipadapter_demo.training.loop import Run, fit
from ipadapter_demo.training.noise import Diffusion
from ipadapter_demo.training.tabletop.base import MIN_SNR_GAMMA, MOST_WEIGHT
from ipadapter_demo.training.tabletop.encoders import clip_pixels
from ipadapter_demo.training.tabletop.latents import SCHEDULE, Frozen, frozen_unet, scaled_latents
from ipadapter_demo.training.tabletop.pictures import SIZE, Pictures

THE_SOLID = CaptionStyle(empty=0.0, attribute=0.15, surface=1.0, solids=0.0)
ANYWHERE = 0.2  # of the holes; the others are around a solid
PAINTED = 0.5  # of those: painted over its shadow too. The rest leave some of the shadow outside
BRUSH = 3, 14  # pixels by which such a stroke is larger than what it covers
PICTURE, WORDS = 0.65, 0.2  # of the holes around a solid: what says so. The rest: nothing
_ROUNDS = 8  # of a batch, of which the held-out loss is the mean
_CORNERS = torch.tensor([2.0, 4.0, 20.0])  # exponents of superellipses: from round to square


@dataclass(frozen=True, slots=True, eq=False)
class Masked:
    """Pictures with a hole, and the conditions that describe what was there."""

    indices: Tensor  # (B,) of the pictures
    hole: Tensor  # (B, 1, S, S), 1 inside
    others: Tensor  # (B,) pictures of the same solid
    by_picture: Tensor  # (B,) bool: whether the image adapter is given those
    texts: list[str]


def train_inpaint(run: Run, pictures: Pictures, held_out: Pictures, out: Path, start: Path) -> dict:
    """Train beside `out/unet` and its image adapter, and write `out/t2i-inpaint`. `start` is a
    T2I-Adapter of colours to go on from."""
    frozen = Frozen.load(out, run.device, with_image_encoder=True)
    encoder = frozen.image_encoder
    assert encoder is not None
    unet = frozen_unet(out, run.device)
    adapter = load_image_adapter(out / TABLETOP.adapters["base"]).float().to(run.device)
    attach(unet, adapter.requires_grad_(False))
    net = new_network(start).to(run.device)
    reads = T2IAdapterStructure(net, channels=(4,))
    cache = run.folder.parent / "cache"
    data = {
        kind: (given, scaled_latents(frozen.vae, given, cache))
        for kind, given in (("seen", pictures), ("held out", held_out))
    }
    diffusion = Diffusion(SCHEDULE, run.device)
    blank = adapter.empty_embeds(1, encoder)

    def loss_of(generator: torch.Generator, batch: int, kind: str = "seen") -> Tensor:
        given, latents = data[kind]
        masked = masked_pictures(given.scenes, batch, generator)
        hole = masked.hole.to(run.device)
        with torch.no_grad():
            seen = clip_pixels(given.pixels(masked.others)).to(run.device)
            drawn = masked.by_picture.to(run.device)[:, None]
            embeds = torch.where(drawn, encoder(seen).image_embeds, blank)
            tokens = adapter.tokens_from_embeds(embeds)
        pixels = (given.pixels(masked.indices).to(run.device) + 1) / 2
        control = reads.read(around_hole(pixels, hole))
        clean = latents[masked.indices].float().to(run.device)
        noise = torch.randn(clean.shape, generator=generator).to(run.device)
        timesteps = diffusion.timesteps(torch.rand(batch, generator=generator), "uniform")
        noisy = diffusion.noisy(clean, noise, timesteps).to(memory_format=torch.channels_last)
        text = frozen.text_states(masked.texts, run.device)
        prompt = ImagePrompt(rows=slice(None), tokens=tokens, scale=1.0, mask=hole)
        predicted = unet(
            noisy,
            timesteps,
            text,
            cross_attention_kwargs={"ip_hidden_states": (prompt,)},
            **control(noisy, timesteps, text, 1.0).unet_arguments(),
        ).sample
        inside = F.adaptive_max_pool2d(hole, clean.shape[-2:])
        weight = (inside / inside.mean(dim=(1, 2, 3), keepdim=True)).sqrt()
        return diffusion.loss(
            predicted * weight, noise * weight, timesteps, gamma=MIN_SNR_GAMMA, most=MOST_WEIGHT
        )

    def look(path: Path) -> dict[str, float]:
        """The same holes and noise every time."""
        generator = torch.Generator().manual_seed(0)
        losses = [float(loss_of(generator, run.batch, "held out")) for _ in range(_ROUNDS)]
        return {"held_out_loss": sum(losses) / _ROUNDS}

    outcome = fit(run, net, loss_of, look)
    net.half().save_pretrained(out / "t2i-inpaint")
    return asdict(outcome) | {"parameters": sum(p.numel() for p in net.parameters())}


def masked_pictures(scenes: Scenes, count: int, generator: torch.Generator) -> Masked:
    """`count` of them with a hole each, most of them around a solid."""
    indices = torch.randint(len(scenes), (count,), generator=generator)
    slot, others = same_solid(scenes, indices, generator)
    around = torch.rand(count, generator=generator) >= ANYWHERE
    hole = torch.where(
        around[:, None, None, None],
        holes(_boxes_of(scenes[indices], slot, generator), generator),
        holes(_boxes_anywhere(count, generator), generator),
    )
    painted = around & (torch.rand(count, generator=generator) < PAINTED)
    hole[painted] = _strokes(scenes[indices[painted]], slot[painted], generator)
    drawn = torch.rand(count, generator=generator)
    by_words = around & (drawn >= PICTURE) & (drawn < PICTURE + WORDS)
    rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    texts = [
        caption(scenes, int(other), THE_SOLID, rng) if worded else ""
        for other, worded in zip(others, by_words.tolist(), strict=True)
    ]
    return Masked(indices, hole, others, around & (drawn < PICTURE), texts)


def same_solid(
    scenes: Scenes, indices: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A slot (B,) with a solid in each scene, and a scene (B,) of a single solid that has its
    shape, texture and colours. Where there is no such scene, it is the scene itself."""
    count = len(indices)
    slot = (torch.rand(count, generator=generator) * scenes.present[indices].sum(1)).long()
    looks = _looks(scenes)
    single = torch.nonzero(~scenes.present[:, 1])[:, 0]
    order = single[looks[single, 0].argsort(stable=True)]
    wanted = looks[indices, slot]
    sorted_looks = looks[order, 0].contiguous()
    first = torch.searchsorted(sorted_looks, wanted)
    after = torch.searchsorted(sorted_looks, wanted, right=True)
    chosen = first + (torch.rand(count, generator=generator) * (after - first)).long()
    found = order[chosen.clamp(max=len(order) - 1)]
    return slot, torch.where(after > first, found, indices)


def _looks(scenes: Scenes) -> Tensor:
    """(N, 2): one number for all that words say of a solid, and its second colour."""
    number = scenes.shape
    for part, kinds in (
        (scenes.colour, COLOURS),
        (scenes.texture, TEXTURES),
        (scenes.second, SECOND_COLOURS),
    ):
        number = number * len(kinds) + part
    return number


def holes(boxes: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, S, S), 1 in round, rounded and square holes. boxes (B, 4): the middle and half the
    size of each, where a picture goes from -1 to 1."""
    corners = _CORNERS[torch.randint(len(_CORNERS), (len(boxes),), generator=generator)]
    along = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    x, y, width, height = (part[:, None] for part in boxes.unbind(1))
    across = ((along - x).abs() / width) ** corners[:, None]
    down = ((along - y).abs() / height) ** corners[:, None]
    return (across[:, None, :] + down[:, :, None] <= 1).float()[:, None]


def _strokes(scenes: Scenes, slot: Tensor, generator: torch.Generator) -> Tensor:
    """Over a solid and its shadow, and over those of some shape in its place: what is to stand in a
    hole must not be recognisable by its outline."""
    shape = scenes.shape.clone()
    shape[torch.arange(len(slot)), slot] = torch.randint(
        len(SHAPES), slot.shape, generator=generator
    )
    half = SIZE // 2  # finer than a stroke needs
    covered = traces(slot, half, scenes, replace(scenes, shape=shape))
    brush = torch.randint(BRUSH[0], BRUSH[1] + 1, slot.shape, generator=generator)
    covered = covered.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    return torch.from_numpy(painted_over(covered, brush.tolist())).float()[:, None]


def _boxes_of(scenes: Scenes, slot: Tensor, generator: torch.Generator) -> Tensor:
    """Around the solid in one slot of each scene, by as much more on every side as it happens."""
    place = places_of_solids(scenes)[torch.arange(len(slot)), slot]
    reach = reach_of_solids(scenes)[torch.arange(len(slot)), slot]
    low, high = (
        reach[:, None] * (1.2 + 0.6 * torch.rand(len(slot), 2, generator=generator))
        for _ in range(2)
    )
    return torch.cat([place + (high - low) / 2, (high + low) / 2], dim=1)


def _boxes_anywhere(count: int, generator: torch.Generator) -> Tensor:
    middle = 2 * torch.rand(count, 2, generator=generator) - 1
    return torch.cat([middle, 0.15 + 0.45 * torch.rand(count, 2, generator=generator)], dim=1)


def new_network(start: Path) -> T2IAdapter:
    """That of `start`, with a fourth channel, of the hole, to which it is deaf at first."""
    known = T2IAdapter.from_pretrained(start).float()
    shape = {name: value for name, value in known.config.items() if not name.startswith("_")}
    net = T2IAdapter(**shape | {"in_channels": 4})  # without the name of the folder it came from
    name = "adapter.conv_in.weight"
    weights = known.state_dict()
    more = net.state_dict()[name].shape[1] - weights[name].shape[1]
    weights[name] = F.pad(weights[name], (0, 0, 0, 0, 0, more))
    net.load_state_dict(weights)
    return net
