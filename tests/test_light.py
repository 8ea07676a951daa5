"""The light recipe: how far Plus is from what another light makes of the base adapter's
prediction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.tabletop.scene import sample_scenes
from ipadapter_demo.training.tabletop.light import in_other_light, train_light
from ipadapter_demo.training.tabletop.pictures import Pictures, rendered_pictures
from tests.shipped import few_steps, shipped_but

PLUS = TABLETOP.adapters["plus"]


def test_the_other_light_comes_from_the_other_side_and_is_all_that_differs() -> None:
    scenes = sample_scenes(16, 5)
    other = in_other_light(scenes)
    assert (other.light_side == 1 - scenes.light_side).all()
    assert (other.light_x == -scenes.light_x).all()
    assert torch.equal(other.light_z, scenes.light_z)
    assert torch.equal(other.colour, scenes.colour)
    assert torch.equal(in_other_light(other).light_x, scenes.light_x)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return rendered_pictures(tmp_path_factory.mktemp("pictures"), 12)


def missing(
    folder: Path, pictures: Pictures, changed: Callable[[str, Tensor], Tensor], lr: float
) -> float:
    """After a step from the shipped Plus with `changed` weights."""
    out = shipped_but(PLUS, folder)
    before = {name: changed(name, w) for name, w in load_file(TABLETOP.folder / PLUS).items()}
    save_file(before, out / PLUS)
    run = few_steps(folder / "light", steps=1, batch=2, lr=lr)
    found = train_light(run, pictures, pictures, out)
    after = load_file(out / PLUS)
    assert after.keys() == before.keys()
    assert (lr > 0) == any(not torch.equal(after[name], w) for name, w in before.items())
    return float(found["light_missing"])


def test_how_much_of_the_difference_is_missing(tmp_path: Path, pictures: Pictures) -> None:
    """All of it where Plus gives nothing."""
    nothing = missing(
        tmp_path / "nothing", pictures, lambda name, w: w * 0 if "to_v_ip" in name else w, lr=0.0
    )
    assert nothing == pytest.approx(1, abs=1e-3)
    assert missing(tmp_path / "shipped", pictures, lambda name, w: w, lr=1e-4) < nothing
