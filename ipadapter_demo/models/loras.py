"""LoRAs of a model: in its weights while a request that names them is drawn, and not otherwise.

They are merged, so that a step costs what it costs without them, and before other LoRAs are, the
model's own weights are put back from copies: exactly those that they were. Merged weights are kept
too, as far as they are small, for a page that goes from one to the other and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor, nn

from ipadapter_demo.adapter import ImageAdapter, lora_by_layer
from ipadapter_demo.errors import ModelError, RequestError
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.lora import Lora, is_lora_file, lora_at
from ipadapter_demo.models import lycoris
from ipadapter_demo.models.catalog import CatalogEntry, LoraEntry
from ipadapter_demo.models.lora_files import Change, layers_of
from ipadapter_demo.models.parts import Parts
from ipadapter_demo.models.shelf import LoraFolder, stamp_of
from ipadapter_demo.models.sources import Hub, Locate, file_at, file_sha256
from ipadapter_demo.models.weights import header_of, naming, tensors_from_file

KEPT_BYTES = 512 * 2**20  # of merged weights, on the CPU


class Loras:
    """The LoRAs that a model has, by name. Not to be called by two threads at once, nor while
    the model runs: the engine calls it.

    `usual` are those of a request that names none. Beside `files`, those in `folder` can be asked
    for, whenever they came there.
    """

    def __init__(
        self,
        parts: Parts | None,
        files: Mapping[str, Path | Hub],
        usual: Sequence[Lora] = (),
        locate: Locate | None = None,
        folder: LoraFolder | None = None,
    ) -> None:
        self._parts, self._files, self.usual = parts, dict(files), tuple(usual)
        self._locate, self._lock = locate, Lock()
        self.folder, self._seen = folder, dict[str, object]()
        self._merged: tuple[Lora, ...] = ()
        self._of_adapters: dict[str, dict[str, Change]] = {}
        self._own: dict[int, tuple[nn.Parameter, Tensor]] = {}  # weights as they are without any
        self._latest: tuple[tuple[Lora, ...], list[tuple[nn.Parameter, Tensor]]] = (), []

    @property
    def weights(self) -> dict[str, float]:
        """Of every one in a request that names none."""
        return dict.fromkeys(self._files, 0.0) | {lora.name: lora.weight for lora in self.usual}

    def add_adapter(self, name: str, adapter: ImageAdapter) -> None:
        """The LoRA that an adapter brings, if it does: see `of_adapters`."""
        assert self._parts is not None
        if layers := lora_by_layer(adapter.lora, self._parts.unet):
            self._of_adapters[f"adapter/{name}"] = {
                f"unet.{layer}": {"lora_down.weight": down, "lora_up.weight": up}
                for layer, (down, up) in layers.items()
            }

    def of_adapters(self, names: Iterable[str]) -> tuple[Lora, ...]:
        """The LoRAs that these adapters were trained with, to be merged while they act."""
        brought = [f"adapter/{name}" for name in names]
        return tuple(Lora(name=name) for name in brought if name in self._of_adapters)

    def check(self, loras: Sequence[Lora]) -> None:
        """Raises RequestError for a name that the model does not have, and ModelError for a file
        that is not at hand and cannot be fetched, or changed: better now than while the model is
        held."""
        for lora in loras:
            self._file(lora.name)

    def merge(self, loras: Sequence[Lora]) -> None:
        """Exactly these are in the weights afterwards. Raises ModelError that names the file; then
        none is."""
        wanted = tuple(lora for lora in loras if lora.weight != 0)
        if wanted == self._merged:
            return
        self._restore()
        if not wanted:
            return
        if wanted == self._latest[0]:
            _copy(self._latest[1])
            self._merged = wanted
            return
        try:
            for lora in wanted:
                assert self._parts is not None
                if brought := self._of_adapters.get(lora.name):
                    lycoris.merge(self._parts, brought, lora.weight, self._keep)
                    continue
                path = self._file(lora.name)
                if path.suffix.lower() != ".safetensors":
                    raise ModelError(
                        f"{path.name} must be a .safetensors file: others may run code "
                        "when they are read"
                    )
                tensors, header = tensors_from_file(path), header_of(path)
                with naming(path):
                    layers = layers_of(tensors, header)
                    lycoris.merge(self._parts, layers, lora.weight, self._keep)
        except BaseException:
            self._restore()
            raise
        self._merged = wanted
        if sum(own.nbytes for _, own in self._own.values()) <= KEPT_BYTES:
            merged = [(w, w.detach().to("cpu", copy=True)) for w, _ in self._own.values()]
            self._latest = wanted, merged

    def hashes(self, loras: Sequence[Lora]) -> dict[str, str]:
        """SHA-256 of the files."""
        return {f"lora/{lora.name}": file_sha256(self._file(lora.name)) for lora in loras}

    def _file(self, name: str) -> Path:
        """Fetched when it is first asked for."""
        if name not in self._files:
            return self._laid(name)
        if not isinstance(place := self._files[name], Hub):
            return place  # whoever fetches another holds the lock meanwhile
        with self._lock:
            if isinstance(place := self._files[name], Hub):
                assert self._locate is not None
                folder, (wanted,) = self._locate(place), place.files
                place = self._files[name] = file_at(folder, wanted) or folder / wanted
            return place

    def _laid(self, name: str) -> Path:
        """From the folder. As merged weights and texts are known by its name, it stays the file
        that it was when it was first asked for."""
        there = self.folder.files() if self.folder else {}
        if name not in there:
            raise RequestError(
                f"lora must be one of those of the model ({_listed([*self._files, *there])}), "
                f"got {name!r:.80}: load its file with the model"
            )
        stamp = stamp_of(there[name])
        if self._seen.setdefault(name, stamp) != stamp:
            raise ModelError(f"lora {name}: its file was changed after use: give it a new name")
        return there[name]

    def _keep(self, weight: nn.Parameter) -> None:
        if id(weight) not in self._own:  # on the CPU: it is needed only when the LoRAs change
            self._own[id(weight)] = weight, weight.detach().to("cpu", copy=True)

    def _restore(self) -> None:
        _copy(self._own.values())
        self._merged = ()


@torch.no_grad()
def _copy(weights: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
    for weight, value in weights:
        weight.copy_(value)


def own_loras(
    entry: CatalogEntry, options: LoadOptions, folder: LoraFolder
) -> tuple[dict[str, Path | Hub], tuple[Lora, ...]]:
    """The files of a model's LoRAs by name, and those that were given with it. Raises ModelError
    for two of one name."""
    files: dict[str, Path | Hub] = {}
    for known, given in entry.loras.items():
        file = given.file if isinstance(given, LoraEntry) else given
        files[known] = file if isinstance(file, Hub) else entry.folder / file
    usual = []
    for path, weight in options.loras:
        lora = lora_at(path, weight)
        name = lora.name
        if is_lora_file(path):
            if name in files:
                raise ModelError(f"lora: two files would be called {name}: rename one")
            files[name] = path
        elif name not in (there := [*files, *folder.files()]):
            raise ModelError(
                f"lora must be a .safetensors file, or one of the model's ({_listed(there)}), "
                f"got {name!r:.80}"
            )
        usual.append(lora)
    return files, tuple(usual)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "it has none"
