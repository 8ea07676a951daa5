"""Distil any SD 1.5 or SDXL base, its image adapter attached, into a LoRA that draws in few steps.

    accelerate launch -m ipadapter_demo.training.few_step --config run.yaml
    python -m ipadapter_demo train few-step --config run.yaml

A LoRA beside the base (arXiv 2311.05556) learns in two parts, the second of which goes on from a
`start`: see `consistency` and `own_states`. Guidance is folded in, and is not needed afterwards.
Text, image, both and none are conditions, the image under a λ of its own. The sampler is LCM's,
from 1 to 8 steps without guidance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ipadapter_demo.adapter import ImagePrompt, attach, check_fits, load_image_adapter
from ipadapter_demo.errors import TrainingError
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.models.local_entry import adapter_file
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.models.sources import announced
from ipadapter_demo.request import GenerateRequest, Reference
from ipadapter_demo.training.card import LORA, Provenance, write_card
from ipadapter_demo.training.config import MIN_SCALE, FewStepConfig
from ipadapter_demo.training.consistency import ConsistencyObjective
from ipadapter_demo.training.data.batch_source import Batch
from ipadapter_demo.training.data.examples import Example, Preparer
from ipadapter_demo.training.finetune import train
from ipadapter_demo.training.held_out import held_out_callback
from ipadapter_demo.training.image_adapter import lost
from ipadapter_demo.training.objective import Conditions
from ipadapter_demo.training.own_states import OwnStatesObjective

LAYERS = (  # as the authors' LoRAs: all but the first and the last convolution
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj"),
    *("downsamplers.0.conv", "upsamplers.0.conv"),
)


class FewStepTask:
    """A LoRA of a frozen base, under the base's prompts and its image adapter's."""

    def __init__(self, config: FewStepConfig, base: BaseModel) -> None:
        from peft import LoraConfig
        from peft.tuners.lora import LoraLayer

        self.config, self.base = config, base
        path = _adapter_file(config, base)
        self.adapter = load_image_adapter(path).float().to(base.device).requires_grad_(False)
        check_fits(self.adapter, base.unet, self.adapter.width_read_from(base.image_encoder), path)
        self.reads = self.adapter.variant
        base.unet.add_adapter(
            LoraConfig(r=config.rank, lora_alpha=config.rank, target_modules=list(LAYERS))
        )
        if config.start is not None:
            _load(base, config.start)
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


def _load(base: BaseModel, path: Path) -> None:
    """The weights of a LoRA, into the one that learns. Raises TrainingError."""
    from peft import set_peft_model_state_dict

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"start: {path} is not a LoRA: {error!s:.200}") from error
    state = {name.removeprefix("unet."): t.float() for name, t in tensors.items()}
    wanted = {
        name.replace(".default", ""): weight
        for name, weight in base.unet.named_parameters()
        if ".lora_" in name
    }
    if state.keys() != wanted.keys():
        raise TrainingError(f"start: {path} is not a LoRA of the same layers")
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            ranks = (min(shape) for shape in (tensor.shape[:2], wanted[name].shape[:2]))
            raise TrainingError("start: {} has rank {}, rank is {}".format(path, *ranks))
    set_peft_model_state_dict(base.unet, state)


def _adapter_file(config: FewStepConfig, base: BaseModel) -> Path:
    """The one named, the base folder's own, or a published base's. Raises TrainingError."""
    own = base.entry.folder / TABLETOP.adapters["base"]
    if config.adapter:
        return Path(config.adapter)
    if config.base in PUBLISHED:
        return adapter_file(PUBLISHED[config.base], config.models_dir, announced(print))
    if own.is_file():
        return own
    raise TrainingError(f"adapter: {config.base} has none of its own; name a file")


def train_few_step(config: FewStepConfig) -> Provenance:
    """Train and write `pytorch_lora_weights.safetensors` and a model card into `config.out`.

    From the base by consistency distillation; from a LoRA, `config.start`, at its own states.
    Raises TrainingError, ModelError or CheckpointError.
    """
    objective = ConsistencyObjective if config.start is None else OwnStatesObjective
    return train(
        config,
        lambda base: FewStepTask(config, base),
        held_out_callback(config),
        lambda _, base, task: objective(config, base, task),
    )


if __name__ == "__main__":
    from ipadapter_demo.training.cli import main

    main(__doc__, FewStepConfig, train_few_step)
