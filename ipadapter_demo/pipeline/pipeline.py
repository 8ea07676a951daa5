"""The one object behind every tab, command and caller: a request in, a stream of events out."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import ipadapter_demo
from ipadapter_demo.adapter import is_attached
from ipadapter_demo.errors import ModelError
from ipadapter_demo.imaging import (
    images_from_pixels,
    mask_from_image,
    paste_inside,
    pixels_from_images,
    resize_image,
)
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.layers import has_presets
from ipadapter_demo.models.schedule import schedule_note
from ipadapter_demo.pipeline.conditioning import (
    ContentCache,
    attention_maps,
    collate,
)
from ipadapter_demo.pipeline.effective import changed_warnings, effective_request
from ipadapter_demo.pipeline.events import ModelInfo, Preview, Result
from ipadapter_demo.pipeline.inpainting.crop import crop_to_mask, uncrop, uncrop_preview
from ipadapter_demo.pipeline.inpainting.seam import match_seam_color
from ipadapter_demo.pipeline.previews import Previews
from ipadapter_demo.pipeline.sampler import Guidance, LatentInit, Step, denoise, new_scheduler
from ipadapter_demo.pipeline.sizes import Size, reshaped
from ipadapter_demo.pipeline.warnings import warnings_for
from ipadapter_demo.request import GenerateRequest

DECODED_AGAIN = (
    "The autoencoder gave no finite pixels in half precision; the picture was decoded "
    "again in float32."
)


# The fields in which the requests of one batch may differ, besides maps and inpainted pictures.
PER_REQUEST_FIELDS: tuple[str, ...] = (
    "prompt",
    "negative_prompt",
    "references",
    "image_scale",
    "image_layers",
    "combine",
    "adapter",
    "seed",
    "count",
)


class ImagePromptPipeline(Previews):
    """Frozen models and caches; nothing a request says is ever stored on it.

    Any number of threads may call it. Model calls take turns, step by step; each caller gets what
    it would have got alone.
    """

    def __init__(self, model: BaseModel) -> None:
        assert is_attached(model.unet, *model.adapters.values())
        super().__init__(model)
        self._encoded = ContentCache(8)

    @cached_property
    def info(self) -> ModelInfo:
        entry = self._model.entry
        return ModelInfo(
            name=entry.name,
            native_size=self._model.native_size,
            recommended=entry.recommended,
            adapters=tuple(entry.adapters),
            structures={kind: s.annotators for kind, s in entry.structures.items()},
            layer_presets=has_presets(self._model.unet),
            words=entry.words,
            note=" ".join(filter(None, (entry.note, self.schedule_note))),
        )

    @property
    def schedule_note(self) -> str:
        """How the model is read where that is not the usual way; else nothing."""
        return schedule_note(self._model.scheduler_config)

    def previews(self) -> Previews:
        """What stays of it when its weights go."""
        return Previews(self._model.without_weights())

    def generate(self, request: GenerateRequest) -> Result:
        """The pictures of a request. Raises RequestError for what the model does not have."""
        *_, result = self.stream(request)
        assert isinstance(result, Result)
        return result

    def stream(
        self, request: GenerateRequest, preview_every: int = 0, record_attention: bool = False
    ) -> Generator[Preview | Result, None, None]:
        """One Preview a step, with pictures on every `preview_every`-th, then the Result.

        Closing the generator cancels: no further step runs. `record_attention` also says where each
        reference was attention_maps, and changes no pixel.
        """
        return self.stream_batch([request], preview_every, record_attention)

    def stream_batch(
        self,
        requests: Sequence[GenerateRequest],
        preview_every: int = 0,
        record_attention: bool = False,
    ) -> Generator[Preview | Result, None, None]:
        """Several requests in one batch: the Previews of all, then a Result each, in order.

        They must be such as `can_batch`. Each picture is what its request gives alone, to
        within one grey level in float32. A Result holds the request that was drawn.
        """
        asked, requests = requests, [effective_request(request) for request in requests]
        assert all(can_batch(requests[0], other) for other in requests)
        began = time.monotonic()
        cropped = [crop_to_mask(request) for request in requests]
        shared, model = cropped[0], self._model
        size = self.working_size(shared)
        conditions = [self._conditioner.condition(r, size, record_attention) for r in cropped]
        steps = denoise(
            model.unet,
            new_scheduler(shared.sampler, model.scheduler_config),
            shared.steps,
            Guidance(shared.guidance, shared.guidance_rescale),
            LatentInit.collate([self._latent_init(request, size) for request in cropped]),
            collate(conditions, [request.count for request in requests]),
            self._model_lock,
        )
        for step in steps:
            show = preview_every > 0 and step.number % preview_every == 0
            show = show and step.number < step.steps
            yield Preview(step.number, step.steps, self._preview(requests[0], step) if show else ())
        images, warnings = self._decoded(step.latents)
        seconds = (time.monotonic() - began) / len(requests)
        for first, request, close, own in zip(asked, requests, cropped, conditions, strict=True):
            said = warnings_for(request, close, size, own.maps, model)
            yield Result(
                _put_in_place(request, images[: request.count]),
                request.seeds,
                request,
                own.maps,
                seconds,
                self.provenance,
                changed_warnings(first, request) + said + warnings,
                attention_maps(own.image_prompts, request.count),
            )
            images = images[request.count :]

    def image_embeds(self, images: Sequence[Image.Image]) -> Tensor:
        """What the model's own image encoder says of pictures: unit embeddings (B, K)."""
        return self._conditioner.image_embeds(images)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What, beside the request, made a picture."""
        libraries = ("torch", "diffusers", "transformers", "ipadapter_demo")
        return {
            "model": self._model.entry.name,
            "weights": self._model.hashes,
            "device": str(self._model.device),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "scheduler": dict(self._model.scheduler_config),
            "versions": {name: _version(name) for name in libraries},
        }

    def _latent_init(self, request: GenerateRequest, size: Size) -> LatentInit:
        model, seeds = self._model, request.seeds
        factor = model.vae.factor
        shape = (model.vae.channels, size[1] // factor, size[0] // factor)
        noise = torch.stack([_noise(seed, shape) for seed in seeds])
        noise = noise.to(model.device, model.dtype)
        sees_mask = model.unet.config.in_channels > model.vae.channels
        if request.inpaint is not None:
            pixels = pixels_from_images([resize_image(request.inpaint.image, size)])
            # A cell touched by the mask is replaced as a whole: thin strokes must not vanish.
            mask = F.adaptive_max_pool2d(mask_from_image(request.inpaint.mask), shape[1:])
            mask = mask.to(noise)
            init_latents, strength = self._latents(pixels), request.inpaint.strength
            repaint_passes = request.inpaint.repaint_passes
            again = tuple(_noise_and_more(seed, shape)[1] for seed in seeds)
            if not sees_mask:
                return LatentInit(
                    noise,
                    init_latents,
                    strength,
                    mask,
                    repaint_passes=repaint_passes,
                    generators=again,
                )
            hole = mask_from_image(resize_image(request.inpaint.mask, size)) >= 0.5
            left = self._latents(pixels.masked_fill(hole, 0.0))
            return LatentInit(
                noise,
                init_latents,
                strength,
                mask_conditioning=torch.cat([mask, left], dim=1),
                repaint_passes=repaint_passes,
                generators=again,
            )
        mask_conditioning = self._nothing_left(noise, size) if sees_mask else None
        if request.init_image is not None:
            pixels = pixels_from_images([reshaped(request.init_image, size, "crop")])
            return LatentInit(
                noise, self._latents(pixels), request.strength, mask_conditioning=mask_conditioning
            )
        return LatentInit(noise, mask_conditioning=mask_conditioning)

    def _nothing_left(self, noise: Tensor, size: Size) -> Tensor:
        """To a UNet trained for inpainting: everything is to be replaced."""
        grey = self._latents(torch.zeros(1, 3, size[1], size[0]))
        return torch.cat([torch.ones_like(noise[:1, :1]), grey], dim=1)

    def _latents(self, pixels: Tensor) -> Tensor:
        """Requests of one batch, or of one person, often start from the same picture."""

        def encode() -> Tensor:
            with self._model_lock:
                return self._model.vae.latents_from_pixels(pixels)

        return self._encoded.get((pixels.shape, sha256(pixels.numpy().tobytes()).digest()), encode)

    def _preview(self, request: GenerateRequest, step: Step) -> tuple[Image.Image, ...]:
        with self._model_lock:
            pixels = self._model.vae.pixels_from_latents(step.clean)
        images = images_from_pixels(pixels.nan_to_num())
        if request.inpaint is not None and request.inpaint.context < 1:
            images = [uncrop_preview(request.inpaint, image) for image in images]
        return tuple(images)

    def _decoded(self, latents: Tensor) -> tuple[list[Image.Image], tuple[str, ...]]:
        """The pictures, and what a person should know of how they were decoded."""
        vae = self._model.vae
        warnings: tuple[str, ...] = ()
        with self._model_lock:
            pixels = vae.pixels_from_latents(latents)
            if not torch.isfinite(pixels).all() and torch.isfinite(latents).all():
                pixels, warnings = vae.pixels_in_float32(latents), (DECODED_AGAIN,)
        if not torch.isfinite(pixels).all():
            raise ModelError(
                f"{self._model.entry.name} in {self._model.dtype} gave pixels that "
                "are not finite: load it in float32"
            )
        return images_from_pixels(pixels), warnings


def can_batch(one: GenerateRequest, other: GenerateRequest) -> bool:
    """Whether two requests can be drawn in one batch. Maps of the same networks may differ, and so
    may what is inpainted, where the model draws it at the same size."""
    names = PER_REQUEST_FIELDS
    if _frame(one) == _frame(other):
        names += ("structures", "inpaint")
    return replace(other, **{name: getattr(one, name) for name in names}) == one


def _frame(request: GenerateRequest) -> object:
    """What is left of structures and an inpainting without their pictures."""
    given = crop_to_mask(request).inpaint
    return (
        [(s.kind, s.weight, s.window) for s in request.structures],
        given and (given.image.size, given.strength, given.repaint_passes),
    )


def _put_in_place(
    request: GenerateRequest, images: Sequence[Image.Image]
) -> tuple[Image.Image, ...]:
    """Of an inpainting, the picture it was given with the drawn part in it."""
    given = request.inpaint
    if given is None:
        return tuple(images)
    whole = (uncrop(given, image) for image in images)
    return tuple(
        paste_inside(
            given.image, match_seam_color(given.image, drawn, given.mask), given.mask, given.feather
        )
        for drawn in whole
    )


def _noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Drawn on the CPU in float32: the same whatever the device, precision or batch."""
    return _noise_and_more(seed, shape)[0]


def _noise_and_more(seed: int, shape: tuple[int, ...]) -> tuple[Tensor, torch.Generator]:
    """The noise that an image starts from, and its generator, for all noise that is still to come.
    Another seed would not do: torch's generator knows only the lower 32 bits."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), generator


def _version(name: str) -> str:
    return ipadapter_demo.__version__ if name == "ipadapter_demo" else version(name)
