"""Distil any SD 1.5 or SDXL base, its image adapter attached, into a LoRA that draws in few steps.

    accelerate launch -m ipadapter_demo.training.few_step --config run.yaml
    python -m ipadapter_demo train few-step --config run.yaml

Latent consistency distillation (arXiv 2310.04378, algorithm 1) of a LoRA (arXiv 2311.05556): the
base with the LoRA learns to give, at every noise level of one trajectory, the same clean latents.
The base without it, with guidance, takes the step from one level to the next; so guidance is folded
in, and is not needed afterwards. Text, image, both and none are conditions, the image under a λ of
its own. The sampler is LCM's, from 1 to 8 steps without guidance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from ipadapter_demo.adapter import ImagePrompt, attach, check_fits, load_image_adapter
from ipadapter_demo.errors import TrainingError
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.models.sources import announced, fetched
from ipadapter_demo.pipeline.schedule import CLEAN
from ipadapter_demo.request import GenerateRequest, Reference
from ipadapter_demo.training.card import LORA, Provenance, write_card
from ipadapter_demo.training.config import MIN_SCALE, FewStepConfig
from ipadapter_demo.training.data.batch_source import Batch
from ipadapter_demo.training.data.examples import Example, Preparer
from ipadapter_demo.training.finetune import train
from ipadapter_demo.training.held_out import held_out_callback
from ipadapter_demo.training.image_adapter import lost
from ipadapter_demo.training.objective import Conditions, Objective

LAYERS = (  # as the authors' LoRAs: all but the first and the last convolution
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj"),
    *("downsamplers.0.conv", "upsamplers.0.conv"),
)
SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0  # of the boundary condition, as in diffusers' LCMScheduler
HUBER = 0.001


class FewStepTask:
    """A LoRA of a frozen base, under the base's prompts and its image adapter's."""

    def __init__(self, config: FewStepConfig, base: BaseModel) -> None:
        from peft import LoraConfig
        from peft.tuners.lora import LoraLayer

        if config.start is not None:
            raise TrainingError(
                "start: distillation begins from the base; got " + str(config.start)
            )
        self.config, self.base = config, base
        path = _adapter_file(config, base)
        self.adapter = load_image_adapter(path).float().to(base.device).requires_grad_(False)
        check_fits(self.adapter, base.unet, self.adapter.width_read_from(base.image_encoder), path)
        base.unet.add_adapter(
            LoraConfig(r=config.rank, lora_alpha=config.rank, target_modules=list(LAYERS))
        )
        attach(base.unet, self.adapter)
        layers = [m for m in base.unet.modules() if isinstance(m, LoraLayer)]
        self.trained = nn.ModuleList(
            part for layer in layers for part in (layer.lora_A, layer.lora_B)
        ).float()
        self.drawing = replace(base, adapters={"base": self.adapter})
        self.preparer = Preparer(
            config.size, base.image_processor, own_pictures=config.own_pictures
        )
        with torch.no_grad():
            self._empty = self.adapter.empty_embeds(1, base.image_encoder)

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """The base without the LoRA."""
        self.base.unet.disable_adapters()
        try:
            yield
        finally:
            self.base.unet.enable_adapters()

    @torch.no_grad()
    def embeds(self, examples: Sequence[Example]) -> Tensor:
        encoder = self.base.image_encoder
        seen = torch.stack([e.clip_pixels for e in examples if e.clip_pixels is not None])
        return self.adapter.embeds_from_clip_pixels(seen.to(encoder.device, encoder.dtype), encoder)

    def conditions(self, batch: Batch) -> Conditions:
        no_image, no_text = lost(self.config, batch.sample_noise.drop)
        embeds = self.embeds(batch.examples) if not batch.has("embeds") else batch.stacked("embeds")
        return self._conditions(batch, embeds, batch.captions(lost=no_text), no_image, False)

    def unconditional(self, batch: Batch) -> Conditions:
        """No words, and the empty picture in the place of each picture, as guidance has them."""
        no_image, _ = lost(self.config, batch.sample_noise.drop)
        count = len(no_image)
        embeds = self._empty.expand(count, *self._empty.shape[1:])
        return self._conditions(batch, embeds, [""] * count, no_image, True)

    def _conditions(
        self, batch: Batch, embeds: Tensor, texts: list[str], no_image: Tensor, unconditional: bool
    ) -> Conditions:
        """λ is 0 where there is no image, and an empty text is unconditional in that half alone:
        that is what a request has."""
        with torch.no_grad():
            tokens = self.adapter.tokens_from_embeds(embeds.float().to(self.base.device))
        scale = MIN_SCALE + (self.config.image_scale - MIN_SCALE) * batch.sample_noise.extra
        scale = scale.masked_fill(no_image, 0.0).view(-1, 1, 1).to(self.base.device)
        prompt = ImagePrompt(rows=slice(None), tokens=tokens, scale=scale)

        def arguments(
            noisy: Tensor, timesteps: Tensor, text: Tensor, added: dict[str, Tensor] | None
        ) -> dict[str, object]:
            return {
                "encoder_hidden_states": text,
                "cross_attention_kwargs": {"ip_hidden_states": (prompt,)},
            }

        return Conditions(texts, [unconditional] * len(texts), arguments)

    def request(self, image: Image.Image, caption: str) -> GenerateRequest:
        """A variation in four steps."""
        return GenerateRequest(
            references=(Reference(image=image),), steps=4, guidance=1.0, sampler="lcm"
        )

    def save(self, folder: Path, card: Provenance) -> list[Path]:
        """In the published layout, in half precision as the published files are."""
        from diffusers import StableDiffusionPipeline
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(self.base.unet)
        StableDiffusionPipeline.save_lora_weights(
            folder, {name: t.half().contiguous() for name, t in state.items()}, weight_name=LORA
        )
        return [folder / LORA, write_card(folder / "README.md", card)]


class ConsistencyObjective(Objective):
    """The distance of two guesses of the clean latents, from neighbouring levels of a trajectory of
    the base with guidance; the guess from the lower level is the target."""

    config: FewStepConfig
    task: FewStepTask

    def __init__(self, config: FewStepConfig, base: BaseModel, task: FewStepTask) -> None:
        super().__init__(config, base, task)
        count = len(self.diffusion.alphas)
        levels = torch.arange(1, config.teacher_steps + 1, device=base.device)
        self._timesteps = (levels * (count / config.teacher_steps)).round().long() - 1

    def loss(self, batch: Batch) -> Tensor:
        config, task = self.config, self.task
        latents = self.latents(batch.examples)
        noise = batch.sample_noise.noise.to(latents)
        share = batch.sample_noise.time.to(latents.device)
        if config.timesteps == "cubic":
            share = 1 - share**3
        level = (share * config.teacher_steps).long().clamp(max=config.teacher_steps - 1)
        upper = self._timesteps[level]
        lower = torch.where(level > 0, self._timesteps[(level - 1).clamp(min=0)], 0)
        noisy = self.diffusion.noisy(latents, noise, upper)
        predict = self.denoiser(batch, task.conditions(batch))
        with torch.no_grad():
            with task.teacher():
                without = self.denoiser(batch, task.unconditional(batch))(noisy, upper).float()
                having = predict(noisy, upper).float()
            guided = without + config.teacher_guidance * (having - without)
            clean = self._clean(noisy, guided, upper)
            signal, sigma = self._level(upper)
            stepped = self.diffusion.noisy(clean, (noisy - signal * clean) / sigma, lower)  # DDIM
            target = self._consistent(predict, stepped, lower)
        off = self._consistent(predict, noisy, upper) - target
        return ((off.square() + HUBER**2).sqrt() - HUBER).mean()

    def _consistent(
        self, predict: Callable[[Tensor, Tensor], Tensor], noisy: Tensor, timesteps: Tensor
    ) -> Tensor:
        """The clean latents that a call points to; at timestep 0 the latents themselves (the
        boundary condition, arXiv 2310.04378, section 3)."""
        clean = self._clean(noisy, predict(noisy, timesteps).float(), timesteps)
        scaled = (timesteps * TIMESTEP_SCALING).view(-1, 1, 1, 1)
        total = scaled**2 + SIGMA_DATA**2
        return SIGMA_DATA**2 / total * noisy + scaled / total.sqrt() * clean

    def _clean(self, noisy: Tensor, output: Tensor, timesteps: Tensor) -> Tensor:
        return CLEAN[self.diffusion.prediction](noisy, output, *self._level(timesteps))

    def _level(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise, (B, 1, 1, 1) each."""
        alpha = self.diffusion.alphas[timesteps].view(-1, 1, 1, 1)
        return alpha.sqrt(), (1 - alpha).sqrt()


def _adapter_file(config: FewStepConfig, base: BaseModel) -> Path:
    """The one named, the base folder's own, or a published base's. Raises TrainingError."""
    own = base.entry.folder / TABLETOP.adapters["base"]
    if config.adapter:
        return Path(config.adapter)
    if config.base in PUBLISHED:
        adapter = PUBLISHED[config.base].adapter
        return fetched(adapter, config.models_dir, announced(print)) / adapter.files[0]
    if own.is_file():
        return own
    raise TrainingError(f"adapter: {config.base} has none of its own; name a file")


def train_few_step(config: FewStepConfig) -> Provenance:
    """Train and write `pytorch_lora_weights.safetensors` and a model card into `config.out`.

    Raises TrainingError, ModelError or CheckpointError.
    """
    return train(
        config,
        lambda base: FewStepTask(config, base),
        held_out_callback(config),
        lambda _, base, task: ConsistencyObjective(config, base, task),
    )


if __name__ == "__main__":
    from ipadapter_demo.training.cli import main

    main(__doc__, FewStepConfig, train_few_step)
