"""Train a T2I-Adapter or a ControlNet beside any SD 1.5 or SDXL base, for any detector's maps.

    accelerate launch -m ipadapter_demo.training.structure --config run.yaml
    python -m ipadapter_demo train structure --config run.yaml

Maps are drawn from the pictures by the detector that the demo offers. A T2I-Adapter's time steps
lean towards the noisy end, where structure is decided (arXiv 2302.08453, section 3.4); half of the
captions are empty, so that the map must speak for itself (arXiv 2302.05543, section 3.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from diffusers import ControlNetModel, T2IAdapter
from PIL import Image
from torch import Tensor

from ipadapter_demo.errors import TrainingError
from ipadapter_demo.models.annotators import DETECTORS, DRAWN
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import StructureEntry
from ipadapter_demo.models.sources import fetched
from ipadapter_demo.models.structure import ControlNetStructure, T2IAdapterStructure
from ipadapter_demo.models.structures import Structures
from ipadapter_demo.request import GenerateRequest, Structure
from ipadapter_demo.training.card import Provenance, write_card
from ipadapter_demo.training.config import StructureConfig
from ipadapter_demo.training.data.batch_source import Batch
from ipadapter_demo.training.data.examples import Example, Preparer
from ipadapter_demo.training.finetune import train
from ipadapter_demo.training.held_out import held_out_callback
from ipadapter_demo.training.objective import Conditions

_KIND = "trained"  # what a preview's request calls the network


class StructureTask:
    """A network beside a frozen base that reads a map of the picture."""

    reads = None

    def __init__(self, config: StructureConfig, base: BaseModel) -> None:
        if config.annotator not in (known := (*DRAWN, "none")):
            raise TrainingError(
                f"annotator must be one of {', '.join(known)}, got {config.annotator!r}"
            )
        self.config, self.base = config, base
        self.trained = _network(config, base).float().to(base.device)
        self.structure = (
            ControlNetStructure(self.trained)
            if config.network == "controlnet"
            else T2IAdapterStructure(self.trained)
        )
        entry = StructureEntry(folder="", network=config.network, annotators=(config.annotator,))
        entries = replace(base.entry, structures={_KIND: entry})
        self.drawing = replace(
            base,
            entry=entries,
            structures=Structures.of(entries, base.locate, {_KIND: self.structure}),
        )
        locate = partial(fetched, models_dir=config.models_dir)
        if (detector := DETECTORS.get(config.annotator)) is not None and detector.weights:
            locate(detector.weights)
        self.preparer = Preparer(config.size, annotator=config.annotator, locate=locate)

    def embeds(self, examples: Sequence[Example]) -> None:
        return None

    def conditions(self, batch: Batch) -> Conditions:
        texts = batch.captions(lost=batch.sample_noise.drop < self.config.drop_text)
        maps = batch.stacked("map").to(self.base.device) / 255

        def arguments(
            noisy: Tensor, timesteps: Tensor, text: Tensor, added: dict[str, Tensor] | None
        ) -> dict[str, object]:
            residuals = self.structure.read(maps)(noisy, timesteps, text, 1.0, added)
            return {"encoder_hidden_states": text} | residuals.unet_arguments()

        return Conditions(texts, [False] * len(texts), arguments)

    def request(self, image: Image.Image, caption: str) -> GenerateRequest:
        """The map alone, without words."""
        structure = Structure(kind=_KIND, image=image, annotator=self.config.annotator)
        return GenerateRequest(
            structures=(structure,), steps=20, guidance=self.base.entry.recommended.guidance
        )

    def save(self, folder: Path, card: Provenance) -> list[Path]:
        """A folder that diffusers' own class loads."""
        self.trained.half().save_pretrained(folder)
        return [
            folder / "config.json",
            folder / "diffusion_pytorch_model.safetensors",
            write_card(folder / "README.md", card),
        ]


def _network(config: StructureConfig, base: BaseModel) -> ControlNetModel | T2IAdapter:
    """A ControlNet is a copy of the UNet's encoder with zero convolutions; a T2I-Adapter has
    features for each down block."""
    unet, factor = base.unet, base.vae.factor
    if config.start is not None:
        kind = ControlNetModel if config.network == "controlnet" else T2IAdapter
        if config.start.is_file():
            raise TrainingError(
                "start must be a folder with config.json and weights, as a training leaves it, "
                f"got the file {config.start}"
            )
        try:
            return kind.from_pretrained(config.start)
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"start: {config.start} holds no {config.network}: {error!s:.200}"
            ) from error
    if config.network == "controlnet":
        halvings = factor.bit_length() - 1
        widths = (16, 32, 96, 256) if halvings == 3 else (16, 32, 64)  # diffusers' own, for 8
        return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=widths)
    channels = list(unet.config.block_out_channels)
    # Where the UNet's first block has no attention it halves the grid before features are added.
    late = not unet.config.down_block_types[0].startswith("CrossAttn")
    return T2IAdapter(
        in_channels=3,
        channels=channels,
        num_res_blocks=2,
        downscale_factor=factor * (2 if late else 1),
        adapter_type="full_adapter_xl" if late else "full_adapter",
    )


def train_structure(config: StructureConfig) -> Provenance:
    """Train and write a network's folder at `config.out`, with a model card.

    Raises TrainingError or ModelError.
    """
    return train(config, lambda base: StructureTask(config, base), held_out_callback(config))


if __name__ == "__main__":
    from ipadapter_demo.training.cli import main

    main(__doc__, StructureConfig, train_structure)
