"""The watch over the model that tests share: one changed weight is seen and named."""

from __future__ import annotations

import pytest
import torch

from ipadapter_demo.models.base_model import load_base_model
from ipadapter_demo.models.catalog import CatalogEntry
from tests.conftest import weight_hashes


@pytest.mark.parametrize("name", ["unet", "vae", "image_encoder", "adapter base"])
def test_the_smallest_change_of_one_weight_is_seen(entry: CatalogEntry, name: str) -> None:
    own = load_base_model(entry, "cpu", torch.float32)
    before = weight_hashes(own)
    assert weight_hashes(own) == before
    networks = {
        "unet": own.unet,
        "vae": own.vae.autoencoder,
        "image_encoder": own.vision,
        "adapter base": own.adapters["base"],
    }
    weight = next(networks[name].parameters()).flatten()
    with torch.no_grad():
        weight[0] = torch.nextafter(weight[0], torch.tensor(torch.inf))
    after = weight_hashes(own)
    assert [key for key in before if after[key] != before[key]] == [name]
