"""The structure networks of one model by kind."""

from __future__ import annotations

import time
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


KEPT_BYTES = 6 * 2**30  # of networks from the hub: two ControlNets of SDXL, eight of SD 1.5


class Structures:
    """The structure networks of a model: those at hand are loaded when the model is, the others
    when they are asked for. Of those the latest stay, up to KEPT_BYTES and one."""

    def __init__(self, entry: CatalogEntry, load: LoadStructure, locate: Finder) -> None:
        self._entries, self._load, self._locate = entry.structures, load, locate
        self._loaded: dict[str, StructureNet] = {}
        self._asked: dict[str, float] = {}  # when, by time.monotonic
        self._lock = Lock()  # of one who loads; nobody else waits for it
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
        self._asked[kind] = time.monotonic()
        if (found := self._loaded.get(kind)) is not None:
            return found
        with self._lock:
            if (found := self._loaded.get(kind)) is None:
                self._let_go()
                found = self._loaded[kind] = self._read(kind, self._fetched(kind))
        return found

    def _let_go(self) -> None:
        """Of those from the hub that were not asked for the longest, until the others fit. Requests
        that are drawn with one keep it until they end."""
        places = {kind: entry.folder for kind, entry in self._entries.items()}
        fetched = [kind for kind in self._loaded if isinstance(places.get(kind), Hub)]
        for kind in sorted(fetched, key=self._asked.__getitem__):
            nets = {self._loaded[k].net for k in fetched if k in self._loaded}
            if sum(p.nbytes for net in nets for p in net.parameters()) <= KEPT_BYTES:
                return
            del self._loaded[kind]

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
