"""The work of one request, as the engine does it: conditions, steps, decoding."""

from __future__ import annotations

import time
from collections.abc import Generator, Hashable, Mapping
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ipadapter_demo.errors import ModelError
from ipadapter_demo.imaging import images_from_pixels, pixels_from_images
from ipadapter_demo.lora import Lora
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.pipeline.conditioning import Conditioner
from ipadapter_demo.pipeline.conditioning.faces import loras_brought
from ipadapter_demo.pipeline.conditioning.images import attention_maps, attention_tiles
from ipadapter_demo.pipeline.conditions import Conditions
from ipadapter_demo.pipeline.denoiser import UNetDenoiser, reads_mask
from ipadapter_demo.pipeline.events import AttentionTiles, Preview
from ipadapter_demo.pipeline.jobs import Fits, Job
from ipadapter_demo.pipeline.plan import Plan
from ipadapter_demo.pipeline.price import pieces_of, price_of, rank_of
from ipadapter_demo.pipeline.sampler import Call, Guidance, Step, denoise
from ipadapter_demo.pipeline.samplers import new_scheduler
from ipadapter_demo.pipeline.schedule import Schedule
from ipadapter_demo.pipeline.sizes import Size, reshaped
from ipadapter_demo.pipeline.step_count import steps_taken
from ipadapter_demo.pipeline.warnings import warnings_for

DECODED_AGAIN = (
    "The autoencoder gave no finite pixels in half precision; the picture was decoded "
    "again in float32."
)


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """The pictures as the model drew them, of a request that was begun at a time."""

    images: tuple[Image.Image, ...]
    warnings: tuple[str, ...]
    maps: tuple[Image.Image, ...]
    attention_maps: tuple[tuple[Image.Image, ...], ...]
    attention_tiles: tuple[tuple[AttentionTiles, ...], ...]
    began: float  # by time.monotonic


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """A planned request with the model that draws it, and the maps of its structures for each size
    of its passes. `share` requests at most share its calls."""

    model: BaseModel
    conditioner: Conditioner
    plan: Plan
    maps: Mapping[Size, tuple[Image.Image, ...]]
    preview_every: int = 0
    record_attention: bool = False

    @property
    def pieces(self) -> list[Plan]:
        """The same pictures in parts, one after the other, where a step of all takes long."""
        plan, native = self.plan, self.model.native_size
        largest = plan.passes[-1].size
        return [replace(plan, drawn=part) for part in pieces_of(plan.drawn, largest, native)]

    def job(
        self,
        share: int,
        background: bool,
        owner: object = None,
        most_seconds: float | None = None,
    ) -> Job:
        """It hands over a Preview a step, then what was Drawn."""
        drawn = self.plan.drawn
        denoiser = UNetDenoiser(self.model.unet, self.model.loras, self._loras)
        entry, native, first = self.model.entry, self.model.native_size, self.pieces[0].drawn
        price = price_of(drawn, self.plan.size, native, entry.structures, self.preview_every)
        return Job(
            self._work(denoiser),
            denoiser.predict,
            fits=self._fits(self.plan.size),
            rows=first.count * (2 if drawn.guidance > 1.0 else 1),
            share=share,
            background=background,
            rank=rank_of(price.total),
            owner=owner,
            most_seconds=most_seconds,
        )

    @property
    def _loras(self) -> tuple[Lora, ...]:
        """Those that are chosen, and those that adapters of faces bring along."""
        drawn = self.plan.drawn
        return (*(drawn.loras or ()), *loras_brought(drawn, self.model))

    def _fits(self, size: Size) -> Hashable:
        return size, self._loras, self.conditioner.prompts.windows(self.plan.drawn)

    def _work(self, denoiser: UNetDenoiser) -> Generator[object, None, None]:
        began, pieces = time.monotonic(), self.pieces
        images: list[Image.Image] = []
        warnings: dict[str, None] = {}
        attention: list[tuple[Image.Image, ...]] = []
        tiles: list[tuple[AttentionTiles, ...]] = []
        each = steps_taken(self.plan.drawn)
        for number, piece in enumerate(pieces):
            done = 0
            for event in self._passes(piece, denoiser, warnings):
                if isinstance(event, Conditions):
                    conditions = event
                elif isinstance(event, Step):
                    latents, done = event.latents, done + 1
                    shown: tuple[Image.Image, ...] = ()
                    if self.preview_every > 0 and done % self.preview_every == 0 and done < each:
                        yield None
                        vae = self.model.vae_of(piece.drawn.vae)
                        pixels = vae.pixels_from_latents(event.clean)
                        shown = (*images, *images_from_pixels(pixels.nan_to_num()))
                    yield Preview(number * each + done, len(pieces) * each, shown)
                else:
                    yield event
            yield None
            made, said = decoded(self.model, latents, piece.drawn.vae)
            images += made
            warnings |= dict.fromkeys(said)
            attention += attention_maps(conditions.image_prompts, piece.drawn.count)
            tiles += attention_tiles(conditions.image_prompts, piece.drawn.count)
        drawn, size = self.plan.drawn, self.plan.passes[-1].size
        unknown = self.conditioner.references.unknown(self.plan.request)
        said = warnings_for(self.plan.request, drawn, size, conditions.maps, self.model, unknown)
        yield Drawn(
            tuple(images),
            (*said, *warnings),
            conditions.maps,
            tuple(attention),
            tuple(tiles),
            began,
        )

    def _passes(
        self, piece: Plan, denoiser: UNetDenoiser, warnings: dict[str, None]
    ) -> Generator[Fits | Conditions | Call[Conditions] | Step | None, None, None]:
        """The conditions of each pass and its steps, and between them what a job yields."""
        passes, latents = piece.passes, None
        for one in passes:
            if len(passes) > 1:
                yield Fits(self._fits(one.size))
            if latents is not None:
                yield None
                latents, said = self._enlarged(latents, one.size)
                warnings |= dict.fromkeys(said)
            record = self.record_attention and one is passes[-1]
            conditions = self.conditioner.condition(
                one.drawn, one.size, record, self.maps[one.size]
            )
            yield conditions
            denoiser.prepare(conditions)
            for event in self._steps(one, conditions, latents):
                if isinstance(event, Step):
                    latents = event.latents
                yield event

    def _enlarged(self, latents: Tensor, size: Size) -> tuple[Tensor, tuple[str, ...]]:
        """The latents that a second pass begins from, and warnings of decoding. Each picture is
        encoded by itself, as it would be if it was given."""
        upscale, chosen = self.plan.drawn.upscale, self.plan.drawn.vae
        encoder = self.conditioner.latents.of(chosen)
        assert upscale is not None
        if upscale.enlarge == "latents":
            return interpolate(latents, encoder.shape(size)[1:], mode="bilinear"), ()
        images, said = decoded(self.model, latents, chosen)
        vae = self.model.vae_of(chosen)
        pixels = (pixels_from_images([reshaped(image, size, "crop")]) for image in images)
        return torch.cat([vae.latents_from_pixels(one) for one in pixels]), said

    def _steps(
        self, plan: Plan, conditions: Conditions, before: Tensor | None
    ) -> Generator[Call[Conditions] | Step, None, None]:
        model, drawn = self.model, plan.drawn
        init = plan.latent_init(self.conditioner.latents.of(drawn.vae), before)
        scheduler = new_scheduler(drawn.sampler, model.scheduler_config, drawn.noise_schedule)
        return denoise(
            Schedule(scheduler, drawn.steps, init.strength, model.device),
            Guidance(drawn.guidance, drawn.guidance_rescale),
            init,
            conditions,
            plan.hooks(init, reads_mask(model)),
        )


def decoded(
    model: BaseModel, latents: Tensor, chosen: str | None = None
) -> tuple[tuple[Image.Image, ...], tuple[str, ...]]:
    """The pictures by the VAE that is chosen, and a warning where they had to be decoded again."""
    warnings: tuple[str, ...] = ()
    vae = model.vae_of(chosen)
    pixels = vae.pixels_from_latents(latents)
    if not torch.isfinite(pixels).all() and torch.isfinite(latents).all():
        pixels, warnings = vae.pixels_in_float32(latents), (DECODED_AGAIN,)
    if not torch.isfinite(pixels).all():
        if model.dtype == torch.float32:
            raise ModelError(
                f"{model.entry.name} in {model.dtype} gave pixels that are not finite: a file of "
                "its weights or of a LoRA is damaged"
            )
        raise ModelError(
            f"{model.entry.name} in {model.dtype} gave pixels that "
            "are not finite: load it in float32"
        )
    return tuple(images_from_pixels(pixels)), warnings
