"""Who is measured in `python -m benchmarks`: this pipeline and diffusers' own, on the same weights,
with the same sampler, guidance and steps, each as it is and compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import ipadapter_demo as ip
from benchmarks.engine import visitors
from ipadapter_demo.adapter import fill_kv_cache
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.models.compiled import unet_output
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.pipeline.engine import Engine

SIDE, GUIDANCE, PROMPT = 128, 6.0, "a red sphere on a green floor"
SCALE = TABLETOP.recommended.map_image_scale
[LORA] = TABLETOP.loras
WINDOW = TABLETOP.recommended.guidance_window
KINDS = {
    "image": "image prompt",
    "window": f"image prompt, guidance in the first {WINDOW[1]:g} of the steps here",
    "text": "text",
    "edges": "image, text and edges (ControlNet)",
    "lora": "image prompt, without guidance, few-step LoRA",
}
Draw = Callable[[], object]
_number = count()


def reference() -> Image.Image:
    """Another one each time, by a pixel: what it is encoded to cannot be kept."""
    image = Image.open(TABLETOP.folder.parent / "examples" / "red-sphere.png").convert("RGB")
    image.putpixel((0, 0), (next(_number) % 256, 0, 0))
    return image


def edge_map() -> Image.Image:
    """A map: white lines on black. Another one each time, as `reference`."""
    image = Image.new("RGB", (SIDE, SIDE))
    for offset in range(24, 104, 8):
        image.paste("white", (offset, offset, offset + 24, offset + 2))
    image.putpixel((0, 0), (next(_number) % 256, 0, 0))
    return image


def prompt() -> str:
    """Another one each time, by a word that no caption has, as `reference`."""
    return f"{PROMPT} {next(_number) % 1000}"


def request(kind: str, steps: int, **changes: Any) -> ip.GenerateRequest:
    """The picture of a row of the table."""
    fields: dict[str, Any] = {"steps": steps, "guidance": GUIDANCE}
    if kind in ("text", "edges"):
        fields["prompt"] = prompt()
    if kind != "text":
        fields["references"] = (ip.Reference(image=reference()),)
        fields["image_scale"] = SCALE if kind == "edges" else 1.0
    if kind == "window":
        fields["guidance_window"] = WINDOW
    if kind == "lora":
        fields |= {"guidance": 1.0, "sampler": "lcm", "loras": (ip.Lora(name=LORA),)}
    if kind == "edges":
        fields["structures"] = (ip.Structure(kind="canny", image=edge_map(), annotator="none"),)
    return ip.GenerateRequest(**fields | changes)


@dataclass(frozen=True)
class Ours:
    """Bare calls are made where pictures are drawn, on the engine's thread."""

    pipeline: ImagePromptPipeline

    @classmethod
    def loaded(cls, compile: bool) -> Ours:
        return cls(ip.load("tabletop", device="cpu", dtype="float32", compile=compile))

    def picture(self, kind: str, steps: int, **changes: Any) -> Draw:
        return lambda: self.pipeline.generate(request(kind, steps, **changes))

    def edges(self, steps: int, **changes: Any) -> Draw:
        """With a ControlNet of another weight or window."""
        given = ip.Structure(kind="canny", image=edge_map(), annotator="none", **changes)
        return self.picture("edges", steps, structures=(given,))

    def unet(self) -> Draw:
        """One call with guidance and an image prompt."""
        return self._on_engine(self._engine.run(self._unet))

    def bare(self, steps: int) -> Draw:
        """The calls of a picture: image encoder, UNet in each step, decoder."""
        model, unet = self.pipeline._model, self._engine.run(self._unet)
        vision, latents = model.image_encoder, torch.zeros(1, 4, SIDE // 4, SIDE // 4)
        pixels = torch.zeros(1, 3, vision.config.image_size, vision.config.image_size)

        def calls() -> None:
            vision(pixels)
            for _ in range(steps):
                unet()
            model.vae.pixels_from_latents(latents)

        return self._on_engine(calls)

    def unet_flop(self) -> int:
        """Operations with floating point numbers of `unet`."""
        call = self._engine.run(self._unet)

        def counted() -> int:
            # with gradients, so that layers go the way that the counter knows
            with torch.enable_grad(), FlopCounterMode(display=False) as counter:
                call()
            return int(counter.get_total_flops())

        return self._engine.run(counted)

    def visitors(self, counts: Sequence[int], steps: int) -> list[dict[str, Any]]:
        return visitors(self.pipeline, counts, steps, rounds=1)

    @property
    def _engine(self) -> Engine:
        return self.pipeline._engine

    def _on_engine(self, call: Draw) -> Draw:
        return lambda: self._engine.run(call)

    def _unet(self) -> Draw:
        model = self.pipeline._model
        conditions = self.pipeline._conditioner.condition(request("image", 1), (SIDE, SIDE))
        prompts = [timed.prompt for timed in conditions.image_prompts]
        fill_kv_cache(model.unet, prompts)
        latents, t = torch.zeros(2, 4, SIDE // 4, SIDE // 4), torch.tensor(500)
        return lambda: unet_output(
            model.unet,
            latents,
            t,
            prompts,
            encoder_hidden_states=conditions.text_states,
            added_cond_kwargs=conditions.added,
        )


@dataclass(frozen=True)
class Diffusers:
    """A pipeline for each kind, over one set of networks as diffusers attaches to them: an image
    adapter changes the UNet, so text alone has a UNet without one, and a LoRA has its own."""

    pipes: dict[str, Any]

    @classmethod
    def loaded(cls, compile: bool) -> Diffusers:
        from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

        folder = TABLETOP.folder
        text, few = _stable_diffusion(), _stable_diffusion("LCMScheduler")
        few.load_lora_weights(str(folder), weight_name=TABLETOP.loras[LORA].file)
        few.fuse_lora()
        few.unload_lora_weights()
        image, few = _with_adapter(_stable_diffusion()), _with_adapter(few)
        net = ControlNetModel.from_pretrained(folder / "controlnet-canny")
        controlled = StableDiffusionControlNetPipeline(**image.components, controlnet=net)
        controlled.set_progress_bar_config(disable=True)
        if compile:
            net.compile()
            for pipe in (text, image, few):
                pipe.unet.compile()
                pipe.vae.decoder.compile()
        return cls(
            {"text": text, "image": image, "window": image, "edges": controlled, "lora": few}
        )

    @classmethod
    def of_image_prompts(cls) -> Diffusers:
        """The one pipeline that an image prompt needs, for the memory that it takes."""
        return cls({"image": _with_adapter(_stable_diffusion())})

    def picture(self, kind: str, steps: int) -> Draw:
        pipe = self.pipes[kind]
        arguments: dict[str, Any] = {
            "guidance_scale": 1.0 if kind == "lora" else GUIDANCE,
            "num_inference_steps": steps,
            "height": SIDE,
            "width": SIDE,
        }
        if kind == "edges":
            arguments["image"] = edge_map()

        def draw() -> object:
            arguments["prompt"] = prompt() if kind in ("text", "edges") else ""
            if kind != "text":
                pipe.set_ip_adapter_scale(SCALE if kind == "edges" else 1.0)
                arguments["ip_adapter_image"] = reference()
            return pipe(**arguments)

        return draw

    def unet(self) -> Draw:
        pipe = self.pipes["image"]
        embeds = pipe.prepare_ip_adapter_image_embeds(reference(), None, "cpu", 1, True)
        latents, t = torch.zeros(2, 4, SIDE // 4, SIDE // 4), torch.tensor(500)
        states = torch.cat(pipe.encode_prompt("", "cpu", 1, True)[::-1])

        def call() -> Tensor:
            with torch.no_grad():
                return pipe.unet(
                    latents,
                    t,
                    encoder_hidden_states=states,
                    added_cond_kwargs={"image_embeds": embeds},
                    return_dict=False,
                )[0]

        return call


def _stable_diffusion(scheduler: str = "DPMSolverMultistepScheduler") -> Any:
    import diffusers

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(TABLETOP.folder, dtype=torch.float32)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _with_adapter(pipe: Any) -> Any:
    pipe.load_ip_adapter(
        str(TABLETOP.folder),
        subfolder="",
        weight_name=TABLETOP.adapters["base"],
        image_encoder_folder=None,
    )
    return pipe
