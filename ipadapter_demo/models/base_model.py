"""The frozen parts of one model, loaded once and shared by every request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import torch

from ipadapter_demo.adapter import (
    ImageAdapter,
    adapter_file,
    attach,
    check_fits,
    load_image_adapter,
)
from ipadapter_demo.errors import ModelError
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.models.at_hand import Finder
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.compiled import check_compiler, compile_decoder, compile_network
from ipadapter_demo.models.extras import with_extras
from ipadapter_demo.models.known_pictures import KnownPictures, known_pictures
from ipadapter_demo.models.loras import Loras, own_loras
from ipadapter_demo.models.memory import aligned, settled, take_turns
from ipadapter_demo.models.own_networks import (
    check_controlnet_fits,
    check_t2i_adapter_fits,
    class_in,
    controlnet_of,
    t2i_adapter_of,
)
from ipadapter_demo.models.parts import Parts, part_of, read_parts
from ipadapter_demo.models.schedule import SchedulerConfig
from ipadapter_demo.models.shelf import LoraFolder
from ipadapter_demo.models.sources import Report, file_sha256, no_report
from ipadapter_demo.models.structure import StructureNet, T2IAdapterStructure
from ipadapter_demo.models.structures import Structures
from ipadapter_demo.models.text import PromptEncoder
from ipadapter_demo.models.vae import VAE
from ipadapter_demo.models.vaes import Vaes
from ipadapter_demo.models.weights import Network, tensors_from_file

if TYPE_CHECKING:
    from diffusers import (
        ConfigMixin,
        ControlNetModel,
        ControlNetUnionModel,
        T2IAdapter,
        UNet2DConditionModel,
    )
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection, PreTrainedModel


@dataclass(frozen=True, eq=False)
class BaseModel:
    """Everything that does not change between requests, on one device in one precision.

    The adapters are attached to the UNet, in their order; without image prompts in a call that
    changes nothing.
    """

    entry: CatalogEntry
    text: PromptEncoder
    vision: CLIPVisionModelWithProjection | None
    other_encoders: dict[str, CLIPVisionModelWithProjection]  # by the adapter that reads one
    image_processor: CLIPImageProcessor
    unet: UNet2DConditionModel
    adapters: dict[str, ImageAdapter]  # by name, the default first
    vae: VAE
    vaes: Vaes  # others that a request may choose
    loras: Loras
    scheduler_config: SchedulerConfig
    structures: Structures
    inpaint_adapter: StructureNet | None  # reads what is left around a mask: `around_hole`
    files: tuple[Path, ...]  # the weights, as they were read
    locate: Finder  # of what is fetched only when it is asked for
    device: torch.device
    known: KnownPictures | None = None  # where the model has seen a small world only

    @property
    def image_encoder(self) -> CLIPVisionModelWithProjection:
        """Raises ModelError for a model that was loaded without one."""
        if self.vision is None:
            raise ModelError(f"model {self.entry.name}: no image encoder, so no image prompts")
        return self.vision

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.unet.conv_in.weight.dtype  # `unet.dtype` passes all its layers
        return dtype

    @property
    def native_size(self) -> int:
        return self.unet.config.sample_size * self.vae.factor

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of the weight files, by their path inside the model's folder."""
        return {_named(path, self.entry.folder): file_sha256(path) for path in self.files}

    def vae_of(self, name: str | None) -> VAE:
        """The one that a request chooses; None: the model's own. Raises RequestError."""
        return self.vae if name is None else self.vaes[name]

    def encoder_of(self, adapter: str) -> CLIPVisionModelWithProjection:
        """The image encoder that the adapter of this name reads."""
        return self.other_encoders.get(adapter) or self.image_encoder

    def encoder_sha256(self, adapter: str) -> str:
        """Of the weights of the image encoder that an adapter reads; of several files of the sums
        of all."""
        place = self.entry.encoders.get(adapter, self.entry.image_encoder)
        assert place is not None, "a model without one makes no embeds"
        folder = _within(self.entry, place)
        sums = [file_sha256(path) for path in self.files if path.is_relative_to(folder)]
        return sums[0] if len(sums) == 1 else sha256("".join(sums).encode()).hexdigest()

    def without_weights(self) -> BaseModel:
        """The same model for previews: configurations and detectors, no network."""
        return replace(
            self,
            text=replace(self.text, encoders=()),
            unet=_Outline(self.unet),
            adapters={},
            vision=None if self.vision is None else _Outline(self.vision),
            other_encoders={},
            vaes=self.vaes.without_weights(),
            vae=replace(self.vae, autoencoder=_Outline(self.vae.autoencoder)),
            inpaint_adapter=None,
            loras=Loras(None, {}),
            structures=Structures.of(self.entry, self.locate, {}),
            files=(),
        )


def load_base_model(
    entry: CatalogEntry,
    device: str,
    dtype: torch.dtype,
    options: LoadOptions | None = None,
    report: Report = no_report,
) -> BaseModel:
    """Load a model at hand, on the device and in the precision that were found for `options`.

    `report` is called while a structure network is fetched. Raises ModelError or CheckpointError.
    """
    from diffusers import ControlNetModel, ControlNetUnionModel, T2IAdapter
    from transformers import CLIPVisionModelWithProjection

    options = options or LoadOptions()
    files: list[Path] = []

    def frozen(network: Network) -> Network:
        return settled(network, "cpu" if options.offload else device)

    unions: WeakValueDictionary[Path, ControlNetUnionModel] = WeakValueDictionary()

    def load(network: type, place: Path, kind: str = "") -> ControlNetModel | T2IAdapter:
        unet, factor, name = parts.unet, VAE(parts.vae).factor, place.name
        if union := unions.get(place):  # it reads this kind of map as well
            return union
        tensors, holds = None, network
        if place.is_file():
            files.append(place)
            tensors = tensors_from_file(place)
        else:
            holds = class_in(place, network)
        found: ControlNetModel | T2IAdapter
        if tensors is None:
            found = part_of(holds, place, dtype, files)
        elif network is ControlNetModel:
            found = controlnet_of(tensors, unet, dtype, name, kind)
        else:
            found = t2i_adapter_of(tensors, unet, factor, dtype, name)
        if network is ControlNetModel:
            check_controlnet_fits(found, unet, name)
        else:
            check_t2i_adapter_fits(found, unet, factor, name)
        found = settled(found, device)
        if isinstance(found, ControlNetUnionModel):
            unions[place] = found
        elif options.compile and network is ControlNetModel:
            compile_network(found, unet.config.sample_size, tokens=tokens)
        return found

    locate = Finder(options.models_dir, report)  # what the operator asked for in any case
    parts: Parts = with_extras(
        read_parts(entry, dtype, files, options.vae, options.prediction_type, options.unet), options
    )
    tokens = parts.tokenizers[0].model_max_length
    folder = LoraFolder(options.models_dir, parts.unet.config.cross_attention_dim)
    loras = Loras(parts, *own_loras(entry, options, folder), locate, folder)
    loras.check(loras.usual)
    loras.merge(loras.usual)
    locate.fetches = options.fetch_later
    unet: UNet2DConditionModel = frozen(parts.unet)

    @cache
    def encoder_at(place: str) -> CLIPVisionModelWithProjection:
        found = part_of(CLIPVisionModelWithProjection, _within(entry, place), dtype, files)
        return frozen(found)

    vision = None if entry.image_encoder is None else encoder_at(entry.image_encoder)
    others = {name: encoder_at(place) for name, place in entry.encoders.items()}
    for name, other in others.items():
        check_same_view(name, other, vision)
    adapters: dict[str, ImageAdapter] = {}
    for name, file in entry.adapters.items():
        assert vision is not None, "an adapter reads what an image encoder saw"
        path = adapter_file(_within(entry, file))
        adapter = load_image_adapter(path)
        check_fits(adapter, unet, adapter.width_read_from(others.get(name, vision)), path)
        loras.add_adapter(name, adapter)
        adapters[name] = aligned(adapter.to(device, dtype)).eval().requires_grad_(False)
        files.append(path)
    attach(unet, *adapters.values())
    text_encoders, vae = tuple(map(frozen, parts.text_encoders)), frozen(parts.vae)
    own_vae = VAE(vae, torch.device(device), honours_upcast=len(text_encoders) > 1)
    if options.offload:
        seeing = dict.fromkeys([*([vision] if vision else []), *others.values()])
        take_turns([*text_encoders, *seeing, unet, vae], device)
    if options.tiling:
        own_vae.tile()
    if options.compile:
        check_compiler(device, options)
        compile_network(unet, unet.config.sample_size, tokens=tokens)
        compile_decoder(vae, unet.config.sample_size)
    return BaseModel(
        entry=entry,
        text=PromptEncoder(
            parts.tokenizers, text_encoders, parts.zeros_for_nothing, torch.device(device)
        ),
        vision=vision,
        other_encoders=others,
        image_processor=parts.image_processor,
        unet=unet,
        adapters=adapters,
        loras=loras,
        vae=own_vae,
        vaes=Vaes(entry, own_vae, dtype, options),
        scheduler_config=parts.scheduler_config,
        structures=Structures(entry, load, locate),
        inpaint_adapter=None
        if entry.inpaint_adapter is None
        else T2IAdapterStructure(
            load(T2IAdapter, entry.folder / entry.inpaint_adapter), channels=(4,)
        ),
        files=tuple(files),
        locate=locate,
        device=torch.device(device),
        known=known_pictures(_within(entry, entry.image_encoder or "").parent),
    )


class _Outline:
    """A network's configuration in place of the network."""

    def __init__(self, network: ConfigMixin | PreTrainedModel) -> None:
        self.config = network.config


def check_same_view(
    name: str, other: CLIPVisionModelWithProjection, own: CLIPVisionModelWithProjection | None
) -> None:
    """A reference is made ready once. Raises ModelError for an encoder of another size."""
    sizes = [encoder.config.image_size for encoder in (other, own) if encoder is not None]
    if len(set(sizes)) > 1:
        raise ModelError(
            f"the image encoder of adapter {name} sees {sizes[0]} pixels, the model's {sizes[1]}"
        )


def _within(entry: CatalogEntry, path: str) -> Path:
    """A path without a root lies in the model's folder."""
    return entry.folder / path


def _named(path: Path, folder: Path) -> str:
    if path.is_relative_to(folder) and path != folder:
        return str(path.relative_to(folder))
    return "/".join(path.parts[-3:])
