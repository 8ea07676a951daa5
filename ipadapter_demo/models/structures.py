"""The structure networks of one model by kind, each loaded once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.annotators import DETECTORS
from ipadapter_demo.models.at_hand import Finder
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.sources import Hub, file_at, file_sha256
from ipadapter_demo.models.structure import (
    ControlNetStructure,
    StructureNet,
    T2IAdapterStructure,
)
from ipadapter_demo.models.union import UnionStructure
from ipadapter_demo.models.weights import weight_files

if TYPE_CHECKING:
    from diffusers import ControlNetModel, ControlNetUnionModel, T2IAdapter

# (class, folder, kind of structure) -> network
LoadStructure = Callable[[type, Path, str], "ControlNetModel | ControlNetUnionModel | T2IAdapter"]


class Structures:
    """The structure networks of a model, each loaded once: those at hand when the model is, the
    others when they are first asked for."""

    def __init__(self, entry: CatalogEntry, load: LoadStructure, locate: Finder) -> None:
        self._entries, self._load, self._locate = entry.structures, load, locate
        self._loaded: dict[str, StructureNet] = {}
        self._lock = Lock()
        for kind, structure in self._entries.items():
            if not isinstance(structure.folder, Hub):
                self._loaded[kind] = self._read(kind, entry.folder / structure.folder)

    @classmethod
    def of(cls, entry: CatalogEntry, locate: Finder, nets: dict[str, StructureNet]) -> Structures:
        """Networks at hand, such as one in training."""
        found = cls(replace(entry, structures={}), lambda network, folder, kind: None, locate)
        found._loaded = nets
        return found

    def __getitem__(self, kind: str) -> StructureNet:
        """Raises ModelError where it is not at hand and cannot be fetched."""
        with self._lock:
            if kind not in self._loaded:
                self._loaded[kind] = self._read(kind, self._fetched(kind))
            return self._loaded[kind]

    def cost(self, kind: str, annotator: str) -> str:
        """What is missing for the first map of this kind and detector, in words behind a name."""
        detector = DETECTORS.get(annotator)
        network = self._entries.get(kind)
        places = (network and network.folder, detector and detector.weights)
        return self._locate.cost(place for place in places if isinstance(place, Hub))

    def hashes(self, kinds: Iterable[str]) -> dict[str, str]:
        """SHA-256 of the weights of those from the hub: the others count among the model's own."""
        return {
            f"structure/{kind}/{file.name}": file_sha256(file)
            for kind in kinds
            if kind in self._entries and isinstance(self._entries[kind].folder, Hub)
            for file in weight_files(self._fetched(kind))
        }

    def _fetched(self, kind: str) -> Path:
        """The folder of one on the hub, or the file that it is."""
        place = self._entries[kind].folder
        assert isinstance(place, Hub)
        folder, [*_, weights] = self._locate(place), place.files
        return folder if len(place.files) > 1 else file_at(folder, weights) or folder / weights

    def loaded(self) -> tuple[StructureNet, ...]:
        return tuple(self._loaded.values())

    def _read(self, kind: str, folder: Path) -> StructureNet:
        from diffusers import ControlNetModel, ControlNetUnionModel, T2IAdapter

        try:
            if self._entries[kind].network == "controlnet":
                net = self._load(ControlNetModel, folder, kind)
                if isinstance(net, ControlNetUnionModel):
                    return UnionStructure(net, kind)
                return ControlNetStructure(net)
            return T2IAdapterStructure(self._load(T2IAdapter, folder, kind))
        except ModelError as error:
            raise ModelError(f"structure {kind}: {error}") from error
