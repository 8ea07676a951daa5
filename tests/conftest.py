"""One tiny model for the whole session: frozen, like any other, and watched, so that no test can
change what the others share."""

from __future__ import annotations

import gc
import hashlib
import os
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from ipadapter_demo.models.base_model import BaseModel, load_base_model
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.pipeline import ImagePromptPipeline
from tests.tiny import write_tiny_model

# Ray brings these two for its own servers; the page runs without, as it does where people open it.
for name in ("uvloop", "httptools"):
    sys.modules[name] = None  # type: ignore[assignment]

# Files that take longest, begun first, so that no worker ends long after the others.
LONG = (
    "test_browser",
    "test_trainer",
    "test_visitors",
    "test_compare",
    "test_evaluation",
    "test_own_parts",
    "test_publish",
    "test_claims",
    "test_coco",
    "test_ray",
    "test_training",
    "test_card",
    "test_compare_page",
    "test_languages_page",
    "test_compile",
    "test_few_step_models",
    "test_next",
    "test_live",
)

# Programs that tests start wait for their threads beside the tests: docs/speed.md.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# One thread each: two for a program and two for the one beside it on two cores take longer.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# They read compiled modules, where whoever runs the tests has asked Python to write none.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Tiny models gain nothing from a second thread, and on a busy machine they would wait for it.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))


def pytest_collection_finish() -> None:
    """Models that go are looked for among what the tests made, and not in all that was imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def entry(tmp_path_factory: pytest.TempPathFactory) -> CatalogEntry:
    """A model folder in the layout of `assets/tabletop`."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def model(entry: CatalogEntry) -> BaseModel:
    return load_base_model(entry, "cpu", torch.float32)


@pytest.fixture(scope="session")
def weights_as_loaded(model: BaseModel) -> dict[str, str]:
    return weight_hashes(model)


@pytest.fixture(autouse=True)
def _the_shared_model_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that leaves another weight behind fails itself, and not some test after it."""
    if "model" not in request.fixturenames:
        yield
        return
    before = request.getfixturevalue("weights_as_loaded")
    yield
    after = weight_hashes(request.getfixturevalue("model"))
    changed = [name for name in before if after[name] != before[name]]
    assert not changed, f"{request.node.nodeid} changed the weights of {', '.join(changed)}"


def weight_hashes(model: BaseModel) -> dict[str, str]:
    """SHA-256 of the parameters and buffers of every network of a model, by name."""
    networks: dict[str, nn.Module | None] = {
        "unet": model.unet,
        "vae": model.vae.autoencoder,
        "image_encoder": model.vision,
        **{f"text_encoder_{i}": encoder for i, encoder in enumerate(model.text.encoders)},
        **{f"adapter {name}": adapter for name, adapter in model.adapters.items()},
        **{f"structure {i}": net.net for i, net in enumerate(model.structures.loaded())},
    }
    if model.inpaint_adapter is not None:
        networks["inpaint_adapter"] = model.inpaint_adapter.net
    found = {}
    for name, network in networks.items():
        if network is not None:
            content = hashlib.sha256()
            for tensor in network.state_dict().values():
                content.update(tensor.detach().contiguous().view(torch.uint8).numpy())
            found[name] = content.hexdigest()
    return found


@pytest.fixture
def pipeline(model: BaseModel) -> ImagePromptPipeline:
    """The session's model with caches of its own."""
    return ImagePromptPipeline(model)
