"""The classifier reads rendered truth; the measures measure what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from safetensors.torch import save_file

from ipadapter_demo.errors import RequestError
from ipadapter_demo.evaluation import experiments, report
from ipadapter_demo.evaluation.attribute_classifier import (
    ATTRIBUTES,
    HUES,
    PATTERN_COLOURS,
    PLACES,
    AttributeClassifier,
    degrees,
    hue_error,
    load_attribute_classifier,
    measures_of_scenes,
    truth_of_scenes,
)
from ipadapter_demo.evaluation.benchmark import Benchmark
from ipadapter_demo.evaluation.drawing import drawn_by, drawn_by_workers, kept_in
from ipadapter_demo.evaluation.experiments import edge_f1
from ipadapter_demo.evaluation.report import evaluate
from ipadapter_demo.evaluation.sharpness import detail_ratio, sharpness_ratio
from ipadapter_demo.imaging import images_from_pixels
from ipadapter_demo.lora import Lora
from ipadapter_demo.models.annotators import annotate
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.pipeline import load
from ipadapter_demo.record import record_from_png
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.tabletop.render import render
from ipadapter_demo.tabletop.scene import sample_scenes, with_first_solid_of
from tests.test_request_loras import kohya

HELD_OUT = 920_001  # neither the recipes' seed nor the report's


@pytest.fixture(scope="module")
def classifier() -> AttributeClassifier:
    return load_attribute_classifier(TABLETOP.folder / "attribute_classifier.safetensors")


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_the_classifier_reads_held_out_renders(
    classifier: AttributeClassifier, name: str, held_out_reading: dict[str, torch.Tensor]
) -> None:
    truth, exists = truth_of_scenes(sample_scenes(160, HELD_OUT))
    right = (held_out_reading[name] == truth[name])[exists[name]].float().mean().item()
    assert right >= 0.98


@pytest.mark.parametrize("name", HUES)
def test_the_classifier_measures_hues(name: str, held_out_reading: dict[str, torch.Tensor]) -> None:
    truth, exists = measures_of_scenes(sample_scenes(160, HELD_OUT))
    assert hue_error(held_out_reading[name], truth[name])[exists[name]].median() < 4  # degrees


@pytest.mark.parametrize("name", PLACES)
def test_the_classifier_measures_places(
    name: str, held_out_reading: dict[str, torch.Tensor]
) -> None:
    truth, exists = measures_of_scenes(sample_scenes(160, HELD_OUT))
    off = (held_out_reading[name] - truth[name]).norm(dim=1)[exists[name]] / 2
    assert off.median() < 0.02  # widths of the picture, half of what counts as a copy


def test_hues_are_compared_round_the_circle() -> None:
    ours, theirs = torch.tensor([359.0, 10.0, 90.0]), torch.tensor([1.0, 350.0, 270.0])
    assert hue_error(ours, theirs).tolist() == [2.0, 20.0, 180.0]
    points = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, -1.0]])
    torch.testing.assert_close(degrees(points), torch.tensor([0.0, 90.0, 270.0]))


@pytest.fixture(scope="module")
def held_out_reading(classifier: AttributeClassifier) -> dict[str, torch.Tensor]:
    scenes = sample_scenes(160, HELD_OUT)
    parts = [
        classifier.classify(images_from_pixels(render(scenes[i : i + 32]).pixels * 2 - 1))
        for i in range(0, 160, 32)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def box(left: int) -> Image.Image:
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).rectangle((left, 20, left + 20, 40), fill="black")
    return image


def test_edges_that_agree_score_one_and_edges_elsewhere_none() -> None:
    drawn = annotate("canny", box(10))
    assert edge_f1(box(10), drawn) == 1.0
    assert edge_f1(box(12), drawn) == 1.0  # within the tolerance
    assert edge_f1(box(40), drawn) < 0.3
    assert edge_f1(Image.new("RGB", (64, 64), "white"), drawn) == 0.0


def stripes() -> Image.Image:
    shown = np.arange(128) % 16 < 8
    row = np.where(shown, 220, 40).astype(np.uint8)
    return Image.fromarray(np.tile(row, (128, 1))).convert("RGB")


def half_mask() -> Image.Image:
    mask = Image.new("L", (128, 128))
    ImageDraw.Draw(mask).rectangle((0, 0, 63, 127), fill=255)
    return mask


def test_detail_is_counted_inside_masks_only_and_less_where_it_is_soft() -> None:
    sharp, mask = stripes(), half_mask()
    soft = sharp.filter(ImageFilter.GaussianBlur(1))
    assert detail_ratio([sharp], [sharp], [mask]) == 1.0
    inside = Image.composite(soft, sharp, mask)
    assert detail_ratio([inside], [sharp], [mask]) < 0.7
    assert detail_ratio([Image.composite(sharp, soft, mask)], [sharp], [mask]) > 0.95
    two = detail_ratio([inside, sharp], [sharp, sharp], [mask, mask])
    assert two == pytest.approx((1 + detail_ratio([inside], [sharp], [mask])) / 2, abs=1e-3)


def test_less_of_a_pattern_is_less_detail_but_as_sharp() -> None:
    sharp, mask = stripes(), half_mask()
    soft = sharp.filter(ImageFilter.GaussianBlur(1))
    assert sharpness_ratio([soft], [sharp], [mask]) < 0.85
    less = sharp.copy()
    less.paste((220, 220, 220), (0, 0, 128, 64))  # of the upper half nothing is left
    pale = Image.blend(sharp, Image.new("RGB", sharp.size, (130, 130, 130)), 0.3)
    for other in (less, pale):
        assert detail_ratio([other], [sharp], [mask]) < 0.6
        assert sharpness_ratio([other], [sharp], [mask]) == pytest.approx(1, abs=0.03)


def test_the_first_solid_of_another_scene_takes_the_place_of_the_own_one() -> None:
    scenes = sample_scenes(8, HELD_OUT)
    others = torch.arange(8).roll(1)
    changed = with_first_solid_of(scenes, others)
    for name in ("shape", "hue", "texture", "second", "yaw"):
        assert torch.equal(getattr(changed, name)[:, 0], getattr(scenes, name)[others, 0])
        assert torch.equal(getattr(changed, name)[:, 1], getattr(scenes, name)[:, 1])
    for name in ("present", "radius", "x", "z", "floor_hue", "light_x", "camera_y"):
        assert torch.equal(getattr(changed, name), getattr(scenes, name))
    ours, theirs = (s.period[:, 0] / s.radius[:, 0] for s in (changed, scenes))
    torch.testing.assert_close(ours, theirs[others])


def test_truth_marks_where_the_colour_of_a_pattern_exists() -> None:
    scenes = sample_scenes(200, 1)
    truth, exists = truth_of_scenes(scenes)
    assert set(truth) == set(exists)
    for index in range(len(scenes)):
        solids = scenes.truth(index)["solids"]
        for slot, name in enumerate(PATTERN_COLOURS):
            there = slot < len(solids) and solids[slot]["texture"] != "plain"
            assert bool(exists[name][index]) == there
            if there:
                assert ATTRIBUTES[name][truth[name][index]] == solids[slot]["second"]


def test_truth_marks_where_a_second_solid_exists() -> None:
    scenes = sample_scenes(20, 1)
    truth, exists = truth_of_scenes(scenes)
    assert set(truth) == set(ATTRIBUTES)
    assert torch.equal(exists["second_shape"], scenes.present[:, 1])
    for name, classes in ATTRIBUTES.items():
        assert int(truth[name].max()) < len(classes)
    assert np.unique(truth["count"].numpy()).tolist() == [0, 1]


def test_the_report_covers_every_claim_on_the_built_in_model() -> None:
    few_steps = replace(TABLETOP, recommended=replace(TABLETOP.recommended, steps=4))
    found = evaluate(load(few_steps, device="cpu"), scenes=2)
    for name in ("text_alone", "free_words", "variation", "variation_plus", "no_image"):
        assert 0 <= found[name]["mean"] <= 1
        assert 0 <= found[name]["chance_mean"] <= 1
    assert found["hand_written"]["mean"] > 0.9
    assert set(found["hand_written"]["by_attribute"]) >= {"count", *experiments.SOLID_NAMES}
    for name in ("text_alone", "free_words"):  # no words name it
        assert "light_side" not in found[name]["by_attribute"]
    for name in ("variation", "variation_plus"):
        assert set(found[name]["pattern_colours"]["by_attribute"]) <= set(PATTERN_COLOURS)
        assert not set(found[name]["by_attribute"]) & set(PATTERN_COLOURS)
    assert 0.5 < found["inpainting"]["detail_inside_of_the_vae"] < 1.1
    assert found["inpainting"]["detail_inside"] > 0
    assert 0.3 < found["inpainting"]["sharpness_inside"] < 1.5
    assert found["inpainting"]["largest_change_outside"] == 0
    assert found["inpainting"]["mean_change_inside"] > 0
    assert found["structure"]["edge_f1_of_rendered_source"] == 1.0
    assert found["structure"]["edge_f1"] > found["structure"]["edge_f1_without_map"]
    assert found["palette"]["cell_error"] < found["palette"]["cell_error_without_map"]
    assert 0 <= found["variation"]["median_hue_error_degrees"] <= 180
    assert found["layout"]["references"] == 1
    assert found["layout"]["spread_over_seeds"]["x"] > 0
    assert found["vae"]["psnr_db"] > 25


class Stamped:
    """Draws nothing new: every request gets the picture of its first reference back."""

    def __call__(self, requests: Sequence[GenerateRequest]) -> list[Image.Image]:
        return [
            r.references[0].picture if r.references else Image.new("RGB", (128, 128))
            for r in requests
        ]


def test_pictures_that_are_the_reference_count_as_copies_and_keep_everything() -> None:
    benchmark = Benchmark(
        load("tabletop", device="cpu").info, Stamped(), sample_scenes(16, HELD_OUT)
    )
    kept = experiments.variation(benchmark)
    assert kept["mean"] > 0.95
    assert kept["median_hue_error_degrees"] < 4
    found = experiments.layout(benchmark)
    assert found["copies"] == 1.0
    assert found["copies_by_chance"] < 0.2
    assert found["spread_over_seeds"]["x"] == 0
    assert found["spread_over_scenes"]["x"] > 0.02


def test_only_what_is_named_counts() -> None:
    scenes = sample_scenes(16, HELD_OUT)
    benchmark = Benchmark(load("tabletop", device="cpu").info, Stamped(), scenes)
    pictures = [*benchmark.images[8:], *benchmark.images[:8]]  # each is that of another scene
    truth = benchmark.truth["floor_colour"]
    same = (truth == truth.roll(8)).tolist()
    named = [{"floor_colour"} if alike else {"wall_colour"} for alike in same]
    assert 0 < sum(same) < len(same)
    found = benchmark.score(pictures, named=named)["by_attribute"]
    assert set(found) == {"floor_colour", "wall_colour"}
    assert found["floor_colour"]["right"] == 1.0
    assert benchmark.score(pictures)["by_attribute"]["floor_colour"]["right"] < 1.0


def test_kept_pictures_are_drawn_once_and_say_what_made_them(tmp_path: Path) -> None:
    requests = [GenerateRequest(prompt="a red cube", steps=1, seed=seed) for seed in range(3)]
    pipeline = load("tabletop", device="cpu")
    drawn: list[GenerateRequest] = []

    def draw(todo: Sequence[GenerateRequest]) -> list[Image.Image]:
        drawn.extend(todo)
        return drawn_by(pipeline)(todo)

    keep = kept_in(tmp_path, draw, pipeline.provenance_of)
    first = keep(requests[:2])
    whole = keep(requests)
    assert drawn == requests  # the two that were there were read
    assert [i.tobytes() for i in whole[:2]] == [i.tobytes() for i in first]
    assert {record_from_png(path).seed for path in tmp_path.glob("*.png")} == {0, 1, 2}

    others = pipeline.provenance | {"weights": "others"}
    kept_in(tmp_path, draw, lambda _: others)(requests[:1])
    assert drawn == [*requests, requests[0]]


def lora(seed: int) -> dict[str, torch.Tensor]:
    return kohya("down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_q", 96, None, seed)


@pytest.fixture
def style(tmp_path: Path) -> Path:
    save_file(lora(1), tmp_path / "style.safetensors")
    return tmp_path / "style.safetensors"


def test_pictures_of_other_loras_are_other_pictures(style: Path, tmp_path: Path) -> None:
    """Of `evaluate --lora style.safetensors:WEIGHT --keep DIR`, run again with another weight, and
    with another file of the name."""
    made: list[GenerateRequest] = []

    def run(weight: float) -> list[Image.Image]:
        pipeline = load("tabletop", device="cpu", loras=((style, weight),))

        def draw(todo: Sequence[GenerateRequest]) -> list[Image.Image]:
            made.extend(todo)
            return drawn_by(pipeline)(todo)

        keep = kept_in(tmp_path / "kept", draw, pipeline.provenance_of)
        benchmark = Benchmark(pipeline.info, keep, sample_scenes(1, HELD_OUT))
        return benchmark.each(lambda _: {"prompt": "a red cube", "steps": 1})

    first = run(0.5)
    assert run(0.5)[0].tobytes() == first[0].tobytes()
    assert [request.loras for request in made] == [(Lora(name="style", weight=0.5),)]
    [kept] = (tmp_path / "kept").glob("*.png")
    record = record_from_png(kept)
    assert record.request == made[0]
    assert "lora/style" in record.provenance["weights"]
    assert run(5.0)[0].tobytes() != first[0].tobytes()
    save_file(lora(2), style)
    run(0.5)
    assert [request.loras[0].weight for request in made if request.loras] == [0.5, 5.0, 0.5]


def test_an_experiment_may_name_other_loras_than_the_usual(style: Path) -> None:
    info = load("tabletop", device="cpu", loras=((style, 0.5),)).info
    benchmark = Benchmark(info, Stamped(), sample_scenes(1, HELD_OUT))
    assert benchmark.request(loras=()).loras == ()
    plain = Benchmark(replace(info, loras={"few-step": 0.0}), Stamped(), sample_scenes(1, HELD_OUT))
    assert plain.request().loras is None


def test_the_report_names_the_usual_loras(style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "EXPERIMENTS", ())
    made = evaluate(load("tabletop", device="cpu", loras=((style, 0.5),)), scenes=1)
    assert made["loras"] == [{"name": "style", "weight": 0.5}]
    assert len(made["provenance"]["weights"]["lora/style"]) == 64
    plain = load("tabletop", device="cpu")
    made = evaluate(plain, scenes=1)
    assert "loras" not in made
    assert made["provenance"] == plain.provenance


def test_a_worker_that_dies_is_said() -> None:
    """As when memory is short. Here it ends as it begins."""
    with (
        pytest.raises(RequestError, match="workers: one of 1 died"),
        drawn_by_workers(1, model="nonesuch") as draw,
    ):
        draw([GenerateRequest(steps=1)])


def test_processes_draw_what_this_one_draws() -> None:
    requests = [
        GenerateRequest(prompt="a red cube", steps=steps, seed=seed)
        for steps in (2, 1)
        for seed in range(5)
    ]
    pipeline = load("tabletop", device="cpu")
    with drawn_by_workers(2, model="tabletop", device="cpu") as draw:
        theirs = draw(requests)
    for ours, other in zip(drawn_by(pipeline)(requests), theirs, strict=True):
        off = np.abs(np.asarray(ours, dtype=int) - np.asarray(other, dtype=int))
        assert off.max() <= 1  # law 3: the number of threads may move the last digit
