"""The studies behind docs/claims.md: every method trains and draws, in miniature, and the page says
what the records say."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from ipadapter_demo.claims import page, restyle, study
from ipadapter_demo.claims import testbed as bed  # not its class by name: pytest collects Test…
from ipadapter_demo.claims.methods import METHODS, TRIED, at_rate, simple_adapter
from ipadapter_demo.claims.studies import STUDIES, by_name
from ipadapter_demo.claims.testbed import EvalSet, open_testbed, shuffled
from ipadapter_demo.cli.claims import STUDIES as NAMES
from ipadapter_demo.errors import DemoError
from ipadapter_demo.tabletop.scene import sample_scenes
from ipadapter_demo.training.tabletop import latents

DOCS = Path(__file__).parent.parent / "docs"

in_two_steps = partial(latents.sample_latents, steps=2)


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> bed.Testbed:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bed, "PICTURES", 16)
        patch.setattr(bed, "BASE_STEPS", 1)
        patch.setattr(bed, "BASE_BATCH", 2)
        patch.setattr(latents, "sample_latents", in_two_steps)
        return open_testbed(tmp_path_factory.mktemp("claims"))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "STEPS", 2)
    monkeypatch.setattr(study, "METRICS_EVERY", 1)
    monkeypatch.setattr(study, "BATCH", 2)
    monkeypatch.setattr(study, "METRICS_SCENES", 2)
    monkeypatch.setattr(study, "sample_latents", in_two_steps)


def read(testbed: bed.Testbed, reads: str, count: int = 2) -> torch.Tensor:
    pixels = testbed.pictures.pixels(torch.arange(count))
    return testbed.read(reads, pixels, torch.Generator().manual_seed(0))  # type: ignore[arg-type]


@pytest.mark.parametrize("build", METHODS)
def test_a_method_learns_from_pictures_and_leaves_the_base_alone(
    testbed: bed.Testbed, build: object, short: None
) -> None:
    before = {name: weight.clone() for name, weight in testbed.unet.state_dict().items()}
    fresh = build(testbed)  # type: ignore[operator]
    method = study.trained(testbed, build, 0)  # type: ignore[arg-type]
    assert all(
        torch.equal(weight, before[name]) for name, weight in testbed.unet.state_dict().items()
    )
    moved = [
        not torch.equal(ours, theirs)
        for ours, theirs in zip(
            method.trained.parameters(), fresh.trained.parameters(), strict=True
        )
    ]
    assert all(p.requires_grad for p in method.trained.parameters())
    assert any(moved)
    metrics = study.metrics_of(study.run_folder(testbed, method, 0, len(testbed.pictures)))
    assert list(metrics) == [1, 2]
    assert {"clip_i", "clip_t", "attributes", "light_side"} < set(metrics[2])


def test_a_method_at_another_rate_is_trained_apart(testbed: bed.Testbed, short: None) -> None:
    plain = study.trained(testbed, simple_adapter, 0)
    other = study.trained(testbed, at_rate(simple_adapter, 5e-3), 0)
    assert other.lr == 5e-3
    weights = [torch.cat([w.flatten() for w in m.trained.parameters()]) for m in (plain, other)]
    assert not torch.equal(*weights)
    folders = {study.run_folder(testbed, m, 0, len(testbed.pictures)) for m in (plain, other)}
    assert len(folders) == 2


@pytest.mark.parametrize("build", METHODS)
def test_a_method_s_own_rate_is_among_those_tried(testbed: bed.Testbed, build: object) -> None:
    assert build(testbed).lr in [lr for tried, lr, _ in TRIED if tried is build]  # type: ignore[operator]


@pytest.mark.parametrize("build", METHODS)
def test_at_scale_zero_a_method_s_picture_has_no_say(testbed: bed.Testbed, build: object) -> None:
    method = build(testbed)  # type: ignore[operator]
    noisy, text = torch.randn(2, 4, 16, 16), testbed.frozen.text_states(["a cube", ""], "cpu")
    first, second = read(testbed, method.reads), read(testbed, method.reads).flip(0)

    def predicted(given: torch.Tensor, scale: float) -> torch.Tensor:
        with torch.no_grad():
            t = torch.tensor(500)
            return method.unet(noisy, t, **method.arguments(given, text, noisy, t, scale)).sample

    assert torch.equal(predicted(first, 0.0), predicted(second, 0.0))
    if method.name != "ControlNet, shuffle":  # whose zero convolutions have not woken yet
        assert not torch.allclose(predicted(first, 1.0), predicted(second, 1.0))


def test_scale_two_is_as_if_every_image_token_came_twice(testbed: bed.Testbed) -> None:
    """The meaning of λ in one softmax, exactly."""
    method = simple_adapter(testbed)
    noisy, text = torch.randn(2, 4, 16, 16), testbed.frozen.text_states(["a cube", ""], "cpu")
    given, t = read(testbed, "embeds"), torch.tensor(500)
    doubled = method.arguments(given, text, noisy, t, 1.0)
    states = doubled["encoder_hidden_states"]
    assert isinstance(states, torch.Tensor)
    doubled["encoder_hidden_states"] = torch.cat([states, states[:, text.shape[1] :]], dim=1)
    with torch.no_grad():
        expected = method.unet(noisy, t, **doubled).sample
        ours = method.unet(noisy, t, **method.arguments(given, text, noisy, t, 2.0)).sample
        once = method.unet(noisy, t, **method.arguments(given, text, noisy, t, 1.0)).sample
    torch.testing.assert_close(ours, expected, atol=2e-4, rtol=0)
    assert (once - expected).abs().max() > 1e-3


def test_shuffling_keeps_colours_and_loses_the_layout() -> None:
    pixels = torch.full((1, 3, 64, 64), -1.0)
    pixels[:, 0, :, :32] = 1.0
    moved = shuffled(pixels, torch.Generator().manual_seed(1))
    assert moved.shape == pixels.shape
    assert (moved - pixels).abs().mean() > 0.2
    assert 0.2 < (moved[:, 0] > 0).float().mean() < 0.8
    torch.testing.assert_close(moved[:, 1:], torch.full_like(moved[:, 1:], -1.0))


def test_the_references_themselves_have_the_best_metrics(
    testbed: bed.Testbed,
) -> None:
    eval_set = EvalSet.of(testbed, 16)
    metrics = eval_set.metrics(testbed, eval_set.references)
    assert metrics["clip_i"] == pytest.approx(1, abs=1e-3)
    assert metrics["attributes"] > 0.95
    by_name = [metrics[name] for name in eval_set.scorer.truth if name in metrics]
    assert metrics["attributes"] == pytest.approx(sum(by_name) / len(by_name), abs=1e-4)
    turned = eval_set.metrics(testbed, eval_set.references.roll(1, 0))
    assert turned["clip_i"] < 0.8
    assert turned["attributes"] < 0.6


def test_the_other_style_has_ink_along_its_edges() -> None:
    scenes = replace(sample_scenes(8, 5), second=torch.zeros(8, 2, dtype=torch.long))
    plain = restyle.render(scenes).pixels * 2 - 1
    assert restyle.ink(restyle.cel_pictures(scenes)) > restyle.ink(plain) + 0.02


def test_figures_over_seeds_have_a_mean_and_a_spread() -> None:
    assert by_name([{"a": 1.0}, {"a": 2.0}, {"a": 3.0}]) == {"a": {"mean": 2.0, "std": 1.0}}


def test_a_table_goes_between_its_marks_and_nowhere_else() -> None:
    text = "one\n<!-- data -->\nold\n<!-- /data -->\ntwo\n"
    expected = "one\n<!-- data -->\nnew\n<!-- /data -->\ntwo\n"
    assert page.with_table(text, "data", "new\n") == expected
    with pytest.raises(DemoError, match="must have the markers <!-- data -->"):
        page.with_table("nothing", "data", "new\n")


def test_the_page_names_every_command() -> None:
    text = (DOCS / "claims.md").read_text()
    assert all(f"claims {name}" in text for name in NAMES)


def test_every_study_has_a_table_and_a_figure() -> None:
    assert set(page.TABLES) == set(page.FIGURES) == set(NAMES)
    assert set(STUDIES) < set(NAMES)
