"""The one object behind every tab, command and caller: a request in, a stream of events out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import cached_property, partial
from importlib.metadata import version
from itertools import islice
from typing import Any
from weakref import finalize

import torch
from PIL import Image
from torch import Tensor

import ipadapter_demo
from ipadapter_demo.adapter import is_attached
from ipadapter_demo.embeds import ImageEmbeds
from ipadapter_demo.errors import RequestError
from ipadapter_demo.json_values import Json
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.compiled import compiled_side
from ipadapter_demo.models.layers import curves_of
from ipadapter_demo.models.schedule import schedule_note
from ipadapter_demo.pipeline.drawing import Drawing, Drawn
from ipadapter_demo.pipeline.effective import changed_warnings
from ipadapter_demo.pipeline.engine import IDLE, Engine, of_thread
from ipadapter_demo.pipeline.events import ModelInfo, Preview, Result
from ipadapter_demo.pipeline.inpainting.plan import plan_for
from ipadapter_demo.pipeline.jobs import Job, Unloaded
from ipadapter_demo.pipeline.plan import Plan
from ipadapter_demo.pipeline.previews import Previews
from ipadapter_demo.pipeline.price import rank_of
from ipadapter_demo.pipeline.request_log import logged
from ipadapter_demo.pipeline.step_count import steps_taken
from ipadapter_demo.request import GenerateRequest, Reference


class ImagePromptPipeline(Previews):
    """Frozen models and caches; nothing a request says is ever stored on it.

    Any number of threads may call it: the engine's thread alone runs the model, and each gets what
    it would have got alone. Up to `share_steps` requests share a call: each is then within one grey
    level of that in float32. `autocast` is the precision of such a context.
    """

    def __init__(
        self, model: BaseModel, share_steps: int = 1, autocast: torch.dtype | None = None
    ) -> None:
        assert is_attached(model.unet, *model.adapters.values())
        super().__init__(model)
        self.share_steps = share_steps
        here = torch.empty(0, device=model.device).device  # each thread has a "cuda" of its own
        # on a GPU no team of CPU threads slows a call, and cuDNN's plans are a thread's
        idle = IDLE if here.type == "cpu" else None
        self._engine = Engine(partial(of_thread, here, autocast), idle=idle)
        finalize(self, self._engine.close).atexit = False

    @cached_property
    def info(self) -> ModelInfo:
        entry = self._model.entry
        return ModelInfo(
            name=entry.name,
            native_size=self._model.native_size,
            recommended=entry.recommended,
            adapters=tuple(entry.adapters),
            face_adapters=tuple(n for n, a in self._model.adapters.items() if a.reads_faces),
            structures={kind: s.annotators for kind, s in entry.structures.items()},
            structure_notes={kind: s.note for kind, s in entry.structures.items() if s.note},
            structure_costs={
                f"{kind}/{annotator}": self._model.structures.cost(kind, annotator)
                for kind, s in entry.structures.items()
                for annotator in s.annotators
            },
            loras=self._model.loras.weights,
            lora_folder=self._model.loras.folder,
            vae_folder=self._model.vaes.folder,
            few_step_loras=entry.few_step_loras,
            layer_presets=curves_of(self._model.unet),
            second_prompt=len(self._model.text.tokenizers) > 1,
            words=entry.words,
            synonyms=entry.synonyms,
            note=" ".join(filter(None, (entry.note, self.schedule_note))),
            live=entry.live_lora(self._model.loras.usual),
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

    @logged
    def stream(
        self,
        request: GenerateRequest,
        preview_every: int = 0,
        record_attention: bool = False,
        look_again: float | None = None,
        most_seconds: float | None = None,
    ) -> Generator[Preview | Result, None, None]:
        """One Preview a step, with pictures on every `preview_every`-th, then the Result.

        Closing the generator cancels: no further step begins. `record_attention` also says where
        each reference acted, and changes no pixel. Where nothing came for `look_again` seconds, it
        is said once more how far the request is. One that is drawn for more than `most_seconds`
        ends with a RequestError; waiting does not count.
        """
        plan, job = self._begun(
            request, self.share_steps, False, record_attention, preview_every, None, most_seconds
        )
        self._engine.submit(job)
        yield from self._events(plan, job, look_again)

    def generate_all(
        self,
        requests: Iterable[GenerateRequest],
        share: int | None = None,
        record_attention: bool = False,
    ) -> Generator[Result, None, None]:
        """Results in order. `share` may share calls of the model. Raises the first error."""
        with closing(self.outcomes(requests, share, record_attention=record_attention)) as found:
            for outcome in found:
                if isinstance(outcome, Exception):
                    raise outcome
                if isinstance(outcome, Result):
                    yield outcome

    @logged
    def outcomes(
        self,
        requests: Iterable[GenerateRequest],
        share: int | None = None,
        background: bool = False,
        record_attention: bool = False,
        look_again: float | None = None,
        most_seconds: float | None = None,
    ) -> Generator[Result | Exception | Preview, None, None]:
        """The same, with an error in the place of a Result. What runs in the background waits for
        everything else, and ends with Unloaded when the model goes. With `look_again`, the Previews
        of each request come before its outcome, as those of `stream`. Several that are given at
        once come as late as one request that costs as much."""
        rank = self._rank_of(requests) if isinstance(requests, Sequence) and not background else 0
        share, todo = share or self.share_steps, iter(requests)
        at_work: deque[tuple[Plan, Job] | Exception] = deque()
        one_owner = object()
        try:
            while True:
                # begun all at once, and one more than share calls: the next, while one is looked at
                new = [
                    self._begun_or_error(
                        request, share, background, record_attention, 0, one_owner, most_seconds
                    )
                    for request in islice(todo, share + 1 - len(at_work))
                ]
                at_work += new
                for job in (jobs := [one[1] for one in new if not isinstance(one, Exception)]):
                    job.rank = max(job.rank, rank)
                self._engine.submit(*jobs)
                if not at_work:
                    return
                for event in self._outcome(at_work.popleft(), look_again):
                    if look_again is not None or not isinstance(event, Preview):
                        yield event
        finally:
            self._engine.cancel(*(one[1] for one in at_work if not isinstance(one, Exception)))

    def image_embeds(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit embeddings (B, K) of pictures, by the model's own image encoder."""
        embed = self._conditioner.references.image_embed
        return torch.cat([self._engine.run(partial(embed, image)) for image in images])

    def embeds_of(self, reference: Reference, adapter: str | None = None) -> ImageEmbeds:
        """To be used in the place of the reference's picture. Raises RequestError."""
        return self._engine.run(partial(self._conditioner.references.embeds_of, reference, adapter))

    def unload(self) -> None:
        """What runs in the background ends with Unloaded; all else is served as before."""
        self._engine.close()

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
        """With the LoRAs that it is drawn with, or None. Raises RequestError."""
        loras = self._model.loras
        loras.check(request.loras or ())
        self._model.vaes.check(request.vae)
        if loras.weights and request.loras is None:
            return replace(request, loras=loras.usual)
        return request if loras.weights or request.loras else replace(request, loras=None)

    def provenance_of(self, request: GenerateRequest) -> dict[str, Json]:
        """That of a Result. Raises RequestError for a LoRA or a VAE that is not there."""
        loras, model = self._with_loras(request).loras or (), self._model
        others = model.loras.hashes(loras) | model.vaes.hashes(request.vae)
        others |= model.structures.hashes(s.kind for s in request.structures)
        return self.provenance | ({"weights": model.hashes | others} if others else {})

    def _begun(
        self,
        request: GenerateRequest,
        share: int,
        background: bool,
        record_attention: bool,
        preview_every: int,
        owner: object,
        most_seconds: float | None,
    ) -> tuple[Plan, Job]:
        """Planned, with all that takes no model done: maps drawn, and their networks at hand."""
        plan = plan_for(self._with_loras(request), self._model.native_size)
        drawn = self._conditioner.maps.structure_maps
        maps = {one.size: drawn(one.drawn.structures, one.size) for one in plan.passes}
        for structure in plan.drawn.structures:
            self._model.structures[structure.kind]
        how = preview_every, record_attention
        drawing = Drawing(self._model, self._conditioner, plan, maps, *how)
        return plan, drawing.job(share, background, owner, most_seconds)

    def _rank_of(self, requests: Sequence[GenerateRequest]) -> int:
        """Of all of them together; those that cannot be drawn cost nothing."""
        total = 0.0
        for request in requests:
            with suppress(RequestError):
                total += self.price(request).total
        return rank_of(total)

    def _begun_or_error(self, request: GenerateRequest, *how: Any) -> tuple[Plan, Job] | Exception:
        try:
            return self._begun(request, *how)
        except Exception as error:
            return error

    def _outcome(
        self, begun: tuple[Plan, Job] | Exception, look_again: float | None
    ) -> Generator[Preview | Result | Exception, None, None]:
        if isinstance(begun, Exception):
            yield begun
            return
        try:
            yield from self._events(*begun, look_again)
        except Unloaded:
            raise
        except Exception as error:
            yield error

    def _events(
        self, plan: Plan, job: Job, look_again: float | None = None
    ) -> Generator[Preview | Result, None, None]:
        """Of a job that was submitted, with the pictures as the person asked for them."""
        last = Preview(0, steps_taken(plan.drawn))
        with closing(self._engine.events(job, look_again)) as handed:
            for event in handed:
                if isinstance(event, Drawn):
                    yield self._result(plan, event)
                elif event is None:
                    yield replace(last, images=(), seconds=self._engine.seconds_of(job))
                else:
                    images = plan.restored_preview(event.images) if event.images else ()
                    last = replace(event, images=images, seconds=self._engine.seconds_of(job))
                    yield last

    def _result(self, plan: Plan, drawn: Drawn) -> Result:
        return Result(
            plan.restored(drawn.images),
            plan.request.seeds,
            plan.request,
            drawn.maps,
            time.monotonic() - drawn.began,
            self.provenance_of(plan.request),
            changed_warnings(plan.asked, plan.request) + drawn.warnings,
            drawn.attention_maps,
            drawn.attention_tiles,
        )


def _version(name: str) -> str:
    return ipadapter_demo.__version__ if name == "ipadapter_demo" else version(name)
