"""Autoencoders beside a model's own: those of its kind in the folder of models, for requests to
choose."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ipadapter_demo.errors import ModelError, RequestError
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.memory import settled
from ipadapter_demo.models.parts import vae_at
from ipadapter_demo.models.shelf import VaeFolder, stamp_of
from ipadapter_demo.models.sources import file_sha256
from ipadapter_demo.models.vae import VAE
from ipadapter_demo.models.weights import weight_files

if TYPE_CHECKING:
    from ipadapter_demo.load_options import LoadOptions


KEPT = 2  # loaded, so that two who take turns with theirs do not read them anew at every preview


class Vaes:
    """By name; those that were used last stay loaded beside the model's own, which they are
    configured as."""

    def __init__(
        self, entry: CatalogEntry, own: VAE, dtype: torch.dtype, options: LoadOptions
    ) -> None:
        self.folder = VaeFolder.beside(options.models_dir, own.autoencoder)
        self._entry, self._dtype, self._tiling = entry, dtype, options.tiling
        self._device, self._honours_upcast = own.device, own.honours_upcast
        self._seen: dict[str, object] = {}
        self._loaded: dict[str, VAE] = {}  # the latest used last

    def __getitem__(self, name: str) -> VAE:
        """Raises RequestError for a name that is not there, and ModelError for what cannot be
        read."""
        place = self._place(name)
        found = self._loaded.pop(name, None)
        while found is None and len(self._loaded) >= KEPT:  # before the next is read
            del self._loaded[next(iter(self._loaded))]
        self._loaded[name] = found or self._read(place)
        return self._loaded[name]

    def without_weights(self) -> Vaes:
        others = copy(self)
        others._loaded = {}
        return others

    def check(self, name: str | None) -> None:
        """Raises RequestError and ModelError: better now than while the model is held."""
        if name is not None:
            self._place(name)

    def hashes(self, name: str | None) -> dict[str, str]:
        """SHA-256 of the files of one that is chosen."""
        if name is None:
            return {}
        place = self._place(name)
        return {f"vae/{name}/{file.name}": file_sha256(file) for file in weight_files(place)}

    def _place(self, name: str) -> Path:
        """As latents are known by its name, it stays what it was when it was first asked for."""
        there = self.folder.places()
        if name not in there:
            known = ", ".join(there) or "there are none"
            raise RequestError(
                f"vae must be one of those beside {self._entry.name} ({known}), got {name!r:.80}"
            )
        stamp = stamp_of(there[name])
        if self._seen.setdefault(name, stamp) != stamp:
            raise ModelError(f"vae {name}: it was changed after use: give it a new name")
        return there[name]

    def _read(self, place: Path) -> VAE:
        found = vae_at(place, self._entry.configs or self._entry.folder, self._dtype)
        vae = VAE(settled(found, self._device), self._device, self._honours_upcast)
        if self._tiling:
            vae.tile()
        return vae
