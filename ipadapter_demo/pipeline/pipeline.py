"""The one object behind every tab, command and caller: a request in, a stream of events out."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version

import torch
from PIL import Image
from torch import Tensor

import ipadapter_demo
from ipadapter_demo.adapter import is_attached
from ipadapter_demo.errors import ModelError
from ipadapter_demo.imaging import images_from_pixels
from ipadapter_demo.json_values import Json
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.compiled import compiled_side
from ipadapter_demo.models.layers import has_presets
from ipadapter_demo.models.schedule import schedule_note
from ipadapter_demo.pipeline.conditioning.images import attention_maps
from ipadapter_demo.pipeline.conditions import Conditions, collate
from ipadapter_demo.pipeline.denoiser import UNetDenoiser, reads_mask
from ipadapter_demo.pipeline.effective import changed_warnings
from ipadapter_demo.pipeline.events import ModelInfo, Preview, Result
from ipadapter_demo.pipeline.inpainting.crop import drawn_size
from ipadapter_demo.pipeline.inpainting.plan import plan_for
from ipadapter_demo.pipeline.latents import LatentInit
from ipadapter_demo.pipeline.plan import Plan
from ipadapter_demo.pipeline.previews import Previews
from ipadapter_demo.pipeline.sampler import Guidance, Step, denoise
from ipadapter_demo.pipeline.samplers import new_scheduler
from ipadapter_demo.pipeline.schedule import Schedule
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

    @cached_property
    def info(self) -> ModelInfo:
        entry = self._model.entry
        return ModelInfo(
            name=entry.name,
            native_size=self._model.native_size,
            recommended=entry.recommended,
            adapters=tuple(entry.adapters),
            structures={kind: s.annotators for kind, s in entry.structures.items()},
            loras=self._model.loras.weights,
            layer_presets=has_presets(self._model.unet),
            words=entry.words,
            note=" ".join(filter(None, (entry.note, self.schedule_note))),
        )

    @property
    def entry(self) -> CatalogEntry:
        return self._model.entry

    @property
    def schedule_note(self) -> str:
        """A note on a model that is not read in the usual way; else nothing."""
        return schedule_note(self._model.scheduler_config)

    def previews(self) -> Previews:
        """The part that stays when the model is unloaded."""
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
        reference acted, and changes no pixel.
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
        began, model = time.monotonic(), self._model
        plans = [plan_for(self._with_loras(request), model.native_size) for request in requests]
        assert all(can_batch(plans[0].request, plan.request) for plan in plans)
        conditions = [
            self._conditioner.condition(plan.drawn, plan.size, record_attention) for plan in plans
        ]
        steps = self._denoise(plans, conditions)
        for step in steps:
            show = preview_every > 0 and step.number % preview_every == 0
            show = show and step.number < step.steps
            yield Preview(step.number, step.steps, self._preview(plans[0], step) if show else ())
        images, warnings = self._decoded(step.latents)
        seconds = (time.monotonic() - began) / len(requests)
        for plan, own in zip(plans, conditions, strict=True):
            request = plan.request
            said = warnings_for(request, plan.drawn, plan.size, own.maps, model)
            yield Result(
                plan.restored(images[: request.count]),
                request.seeds,
                request,
                own.maps,
                seconds,
                self._provenance_of(request),
                changed_warnings(plan.asked, request) + said + warnings,
                attention_maps(own.image_prompts, request.count),
            )
            images = images[request.count :]

    def image_embeds(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit embeddings (B, K) of pictures, by the model's own image encoder."""
        return self._conditioner.references.image_embeds(images)

    @cached_property
    def provenance(self) -> dict[str, Json]:
        """All that, beside the request, made a picture: model, weights, versions."""
        libraries = ("torch", "diffusers", "transformers", "ipadapter_demo")
        compiled = compiled_side(self._model.unet) is not None
        return {
            "model": self._model.entry.name,
            "weights": self._model.hashes,
            "device": str(self._model.device),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "scheduler": dict(self._model.scheduler_config),
            "versions": {name: _version(name) for name in libraries},
            **({"compiled": True} if compiled else {}),
        }

    def _with_loras(self, request: GenerateRequest) -> GenerateRequest:
        """With the LoRAs that it is drawn with; None where the model has none. Raises
        RequestError."""
        loras = self._model.loras
        loras.check(request.loras or ())
        if loras.weights and request.loras is None:
            return replace(request, loras=loras.usual)
        return request if loras.weights or request.loras is None else replace(request, loras=None)

    def _provenance_of(self, request: GenerateRequest) -> dict[str, Json]:
        if not request.loras:
            return self.provenance
        weights = self._model.hashes | self._model.loras.hashes(request.loras)
        return self.provenance | {"weights": dict(weights)}

    def _denoise(self, plans: Sequence[Plan], conditions: Sequence[Conditions]) -> Iterator[Step]:
        model, drawn = self._model, plans[0].drawn
        inits = [plan.latent_init(self._conditioner.latents) for plan in plans]
        first, *others = [
            plan.hooks(init, reads_mask(model)) for plan, init in zip(plans, inits, strict=True)
        ]
        init = LatentInit.collate(inits)
        scheduler = new_scheduler(drawn.sampler, model.scheduler_config, drawn.noise_schedule)
        return denoise(
            UNetDenoiser(model.unet, model.loras, drawn.loras or ()),
            Schedule(scheduler, drawn.steps, init.strength, model.device),
            Guidance(drawn.guidance, drawn.guidance_rescale),
            init,
            collate(conditions, [plan.drawn.count for plan in plans]),
            self._model_lock,
            first.collated(others),
        )

    def _preview(self, plan: Plan, step: Step) -> tuple[Image.Image, ...]:
        with self._model_lock:
            pixels = self._model.vae.pixels_from_latents(step.clean)
        return plan.restored_preview(images_from_pixels(pixels.nan_to_num()))

    def _decoded(self, latents: Tensor) -> tuple[list[Image.Image], tuple[str, ...]]:
        """The pictures, and a warning where they had to be decoded again."""
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
    """True if two requests can be drawn in one batch. Maps of the same networks may differ, and so
    may what is inpainted, where the model draws it at the same size."""
    names = PER_REQUEST_FIELDS
    if _frame(one) == _frame(other):
        names += ("structures", "inpaint")
    return replace(other, **{name: getattr(one, name) for name in names}) == one


def _frame(request: GenerateRequest) -> object:
    """Structures and an inpainting without their pictures."""
    given = request.inpaint
    return (
        [(s.kind, s.weight, s.window) for s in request.structures],
        given and (drawn_size(given), given.strength, given.repaint_passes),
    )


def _version(name: str) -> str:
    return ipadapter_demo.__version__ if name == "ipadapter_demo" else version(name)
