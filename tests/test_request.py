"""A request is checked once, where it is built; errors name the field, the limit and the value."""

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ipadapter_demo.errors import RequestError
from ipadapter_demo.layer_presets import LAYER_PRESETS
from ipadapter_demo.own_files import structure_parts
from ipadapter_demo.request import (
    FITS,
    MAX_COUNT,
    MAX_PROMPT,
    MAX_SEED,
    SAMPLERS,
    Fit,
    GenerateRequest,
    Inpaint,
    Reference,
    Sampler,
    Structure,
)
from ipadapter_demo.sampling import FEW_STEP_SAMPLERS, NOISE_SCHEDULES, noise_schedules_of

PICTURE = Image.new("RGB", (16, 16), "red")
MASK = Image.new("L", (16, 16), 255)


def test_the_default_request_is_valid() -> None:
    request = GenerateRequest()
    assert (request.image_scale, request.guidance, request.count) == (1.0, 7.5, 1)
    assert request.seeds == (0,)


def test_limits_themselves_are_valid() -> None:
    GenerateRequest(
        prompt="x" * MAX_PROMPT,
        references=(Reference(image=PICTURE),) * 8,
        image_scale=2,
        image_window=(0, 1),
        guidance=1,
        steps=200,
        seed=MAX_SEED,
        width=512,
        height=2048,
        structures=(Structure(kind="canny", image=PICTURE),) * 4,
        strength=1,
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_is_accepted(sampler: Sampler) -> None:
    assert GenerateRequest(sampler=sampler).sampler == sampler


@pytest.mark.parametrize("sampler", FEW_STEP_SAMPLERS)
def test_a_distilled_model_has_fewer_steps(sampler: Sampler) -> None:
    assert GenerateRequest(sampler=sampler, steps=50).steps == 50
    with pytest.raises(RequestError, match=rf"^steps must be at most 50 for .* {sampler}, got 51"):
        GenerateRequest(sampler=sampler, steps=51)


def test_a_noise_schedule_that_a_sampler_takes() -> None:
    for sampler in SAMPLERS:
        able = noise_schedules_of(sampler)
        assert GenerateRequest(sampler=sampler).noise_schedule == able[0] == "default"
        for name in NOISE_SCHEDULES:
            if name in able:
                assert GenerateRequest(sampler=sampler, noise_schedule=name).noise_schedule == name
                continue
            message = rf"^noise_schedule must be .*default.* for the sampler {re.escape(sampler)}"
            with pytest.raises(RequestError, match=message):
                GenerateRequest(sampler=sampler, noise_schedule=name)


NOT_NUMBERS = [None, "1", True, [1.0], 1j]
NOT_WHOLE = [1.5, True, "20", None, math.nan, math.inf, [4]]
NOT_WINDOWS = [
    (0.6, 0.2),
    (0.5, 0.5),
    (-0.1, 1),
    (0, 1.1),
    (0, math.nan),
    (0,),
    (0, 1, 1),
    0.5,
    None,
]

BAD_VALUES: dict[str, list[Any]] = {
    "prompt": [None, 3, b"text", ["a"], "x" * (MAX_PROMPT + 1)],
    "negative_prompt": [None, "x" * (MAX_PROMPT + 1)],
    "references": [None, PICTURE, [PICTURE], Reference(image=PICTURE), "ab"],
    "image_scale": [*NOT_NUMBERS, -0.1, 2.0001, 3, math.nan, math.inf, -math.inf],
    "image_window": NOT_WINDOWS,
    "image_layers": [None, 3, "", "everything", (), (1.0, -0.1), (1.0, "a"), (1.0,) * 201],
    "combine": ["", "sum", None],
    "guidance_window": NOT_WINDOWS,
    "guidance_rescale": [*NOT_NUMBERS, -0.1, 1.1, math.nan],
    "adapter": [3, ["base"], "x" * (MAX_PROMPT + 1)],
    "guidance": [*NOT_NUMBERS, 0, 0.99, 30.1, math.nan, math.inf],
    "steps": [*NOT_WHOLE, 0, -1, 201, 10_000],
    "noise_schedule": ["", "Karras", None, 1, ["karras"], "exponential"],
    "sampler": ["", "Euler", None, 1, ["ddim"]],
    "seed": [*NOT_WHOLE, -1, MAX_SEED + 1, 1e20],
    "count": [*NOT_WHOLE, 0, MAX_COUNT + 1],
    "width": [0, 24, 2056, 100, 127, 128.5, True, "128"],
    "height": [0, 24, 2056, 100, 127, 128.5, True, "128"],
    "structures": [None, [PICTURE], (Reference(image=PICTURE),)],
    "inpaint": [PICTURE, (PICTURE, MASK), {"image": PICTURE}],
    "init_image": ["picture.png", b"", 3],
    "strength": [*NOT_NUMBERS, 0, -0.5, 1.1, math.nan],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in BAD_VALUES.items() for value in values],
)
def test_a_bad_value_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(RequestError, match=f"^{field} must"):
        GenerateRequest(**{field: value})


BAD_PARTS = [
    (Reference, {"image": None}, "reference.image must be a picture"),
    (Reference, {"weight": -1}, r"reference.weight must be from 0 to 2, got -1"),
    (Reference, {"weight": math.nan}, r"reference.weight must be from 0 to 2, got nan"),
    (
        Reference,
        {"fit": "stretch"},
        "reference.fit must be one of crop, pad, squash, tile, got 'stret",
    ),
    (Reference, {"mask": "everywhere"}, "reference.mask must be a picture"),
    (Reference, {"negative": "false"}, "reference.negative must be true or false, got 'false'"),
    (Reference, {"window": (0.5, 0.5)}, "reference.window must start before it ends"),
    (Reference, {"only_image": -1}, r"reference.only_image must be from 0 to 15, got -1"),
    (Structure, {"kind": 3}, "structure.kind must be text, got 3"),
    (Structure, {"annotator": None}, "structure.annotator must be text, got None"),
    (Structure, {"image": 0}, "structure.image must be a picture"),
    (Structure, {"weight": 2.5}, r"structure.weight must be from 0 to 2, got 2.5"),
    (Structure, {"window": (1, 0)}, r"structure.window must start before it ends, got \(1, 0\)"),
    (Inpaint, {"mask": Image.new("L", (8, 8))}, r"inpaint.mask must have .* 16x16, got 8x8"),
    (Inpaint, {"mask": Image.new("L", (16, 16))}, "inpaint.mask is empty"),
    (Inpaint, {"mask": Image.new("RGBA", (16, 16))}, "inpaint.mask is empty"),
    (Inpaint, {"strength": 0}, r"inpaint.strength must be above 0 and at most 1, got 0"),
    (Inpaint, {"feather": -1}, r"inpaint.feather must be from 0 to 64, got -1"),
    (Inpaint, {"context": 1.5}, r"inpaint.context must be from 0 to 1, got 1.5"),
    (Inpaint, {"background_weight": 3}, r"inpaint.background_weight must be from 0 to 2, got 3"),
    (Inpaint, {"feather": 1.5}, r"inpaint.feather must be a whole number, got 1.5"),
]


@pytest.mark.parametrize(("kind", "values", "message"), BAD_PARTS)
def test_a_bad_part_is_refused_by_name(kind: type, values: dict, message: str) -> None:
    needed: dict[type, dict[str, Any]] = {
        Reference: {},
        Structure: {"kind": "canny"},
        Inpaint: {"mask": MASK},
    }
    valid = {"image": PICTURE} | needed[kind]
    kind(**valid)
    with pytest.raises(RequestError, match=message):
        kind(**valid | values)


def test_too_many_parts_are_refused() -> None:
    with pytest.raises(RequestError, match="references must have at most 8 entries, got 9"):
        GenerateRequest(references=(Reference(image=PICTURE),) * 9)
    with pytest.raises(RequestError, match="structures must have at most 8 entries, got 9"):
        GenerateRequest(structures=(Structure(kind="canny", image=PICTURE),) * 9)


def test_a_reference_cannot_be_for_an_image_that_is_not_asked_for() -> None:
    reference = Reference(image=PICTURE, only_image=1)
    assert GenerateRequest(references=(reference,), count=2).references == (reference,)
    with pytest.raises(RequestError, match="only_image must lie below count, 1, got 1"):
        GenerateRequest(references=(reference,))


def test_seeds_of_all_images_must_exist() -> None:
    assert GenerateRequest(seed=MAX_SEED - 3, count=4).seeds[-1] == MAX_SEED
    with pytest.raises(
        RequestError, match=f"seed must be at most {MAX_SEED - 3} for 4 images, got"
    ):
        GenerateRequest(seed=MAX_SEED - 2, count=4)


def test_the_nearest_valid_side_is_suggested() -> None:
    with pytest.raises(
        RequestError, match="width must be a multiple of 8, got 127; nearest is 128"
    ):
        GenerateRequest(width=127)


def test_inpainting_and_a_start_picture_exclude_each_other() -> None:
    with pytest.raises(RequestError, match="exclude each other"):
        GenerateRequest(inpaint=Inpaint(image=PICTURE, mask=MASK), init_image=PICTURE)


def test_numbers_of_numpy_are_numbers() -> None:
    request = GenerateRequest(
        seed=np.int64(3), steps=np.arange(5)[4], image_scale=np.float32(0.5), guidance=np.int32(3)
    )
    found = (request.seed, request.steps, request.image_scale, request.guidance)
    assert found == (3, 4, 0.5, 3.0)
    assert list(map(type, found)) == [int, int, float, float]
    for value in (np.float32("nan"), np.bool_(True), np.array([1])):
        with pytest.raises(RequestError, match=r"^guidance must be"):
            GenerateRequest(guidance=value)


def test_half_of_a_utf_16_pair_is_no_text() -> None:
    with pytest.raises(RequestError, match=r"prompt must be text that UTF-8 can hold, got .*ud83d"):
        GenerateRequest(prompt="\ud83d a cat")


def test_numbers_from_sliders_and_json_are_normalised() -> None:
    request = GenerateRequest(steps=20.0, seed=3.0, image_scale=1, image_window=[0, 1])
    assert (type(request.steps), type(request.seed)) == (int, int)
    assert (type(request.image_scale), request.image_window) == (float, (0.0, 1.0))


def test_pictures_are_flattened_copies() -> None:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    reference = Reference(image=image, mask=image)
    image.paste((0, 0, 0, 255), (0, 0, 8, 8))
    assert reference.image == Image.new("RGB", (8, 8), "white")
    assert reference.mask == Image.new("L", (8, 8))


def test_a_request_cannot_be_changed_but_varied() -> None:
    request = GenerateRequest(references=(Reference(image=PICTURE),))
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.seed = 3  # type: ignore[misc]
    varied = dataclasses.replace(request, image_scale=0.5)
    assert (varied.image_scale, varied.references) == (0.5, request.references)
    with pytest.raises(RequestError, match="image_scale"):
        dataclasses.replace(request, image_scale=5)


def test_requests_compare_by_content() -> None:
    first, second = (
        GenerateRequest(references=(Reference(image=Image.new("RGB", (8, 8), "blue")),))
        for _ in range(2)
    )
    assert first == second
    assert first != dataclasses.replace(first, references=(Reference(image=PICTURE),))


@pytest.mark.parametrize("fit", FITS)
def test_every_fit_is_accepted(fit: Fit) -> None:
    assert Reference(image=PICTURE, fit=fit).fit == fit


PART: dict[type, dict[str, Any]] = {
    GenerateRequest: {},
    Reference: {"image": PICTURE},
    Structure: {"image": PICTURE, "kind": "canny"},
    Inpaint: {"image": PICTURE, "mask": MASK},
}


@pytest.mark.parametrize(
    ("part", "field", "low", "high"),
    [
        (GenerateRequest, "image_scale", 0.0, 2.0),
        (GenerateRequest, "guidance", 1.0, 30.0),
        (GenerateRequest, "guidance_rescale", 0.0, 1.0),
        (GenerateRequest, "steps", 1, 200),
        (GenerateRequest, "count", 1, 16),
        (GenerateRequest, "seed", 0, MAX_SEED),
        (GenerateRequest, "width", 32, 2048),
        (GenerateRequest, "height", 32, 2048),
        (Reference, "weight", 0.0, 2.0),
        (Reference, "only_image", 0, 15),
        (Structure, "weight", 0.0, 2.0),
        (Inpaint, "feather", 0, 64),
        (Inpaint, "repaint_passes", 1, 10),
        (Inpaint, "context", 0.0, 1.0),
        (Inpaint, "background_weight", 0.0, 2.0),
    ],
)
def test_a_range_is_held_to_its_ends(part: type, field: str, low: float, high: float) -> None:
    prefix = "" if part is GenerateRequest else f"{part.__name__.lower()}."
    for value in (low, high):
        stored = getattr(part(**PART[part] | {field: value}), field)
        assert (stored, type(stored)) == (value, type(low))
    step = 1 if isinstance(low, int) else 0.001
    for value in (low - step, high + step):
        with pytest.raises(RequestError) as refusal:
            part(**PART[part] | {field: value})
        assert (
            str(refusal.value)
            == f"{prefix}{field} must be from {low:.10g} to {high:.10g}, got {value}"
        )
    other: Any = float(low) if isinstance(low, int) else int(low)  # JSON's 20.0, and a slider's 1
    assert type(getattr(part(**PART[part] | {field: other}), field)) is type(low)


@pytest.mark.parametrize(
    ("part", "field", "prefix"),
    [(GenerateRequest, "strength", ""), (Inpaint, "strength", "inpaint.")],
)
def test_a_strength_of_zero_would_change_nothing(part: type, field: str, prefix: str) -> None:
    for value in (0.001, 1.0):
        assert getattr(part(**PART[part] | {field: value}), field) == value
    for value in (0, 0.0):
        with pytest.raises(RequestError) as refusal:
            part(**PART[part] | {field: value})
        assert str(refusal.value) == (
            f"{prefix}strength must be above 0 and at most 1, got {value}: "
            "at 0 nothing would change"
        )
    with pytest.raises(RequestError, match=rf"^{prefix}strength must be from 0 to 1, got 1.001$"):
        part(**PART[part] | {field: 1.001})


@pytest.mark.parametrize(
    ("part", "field", "prefix"),
    [
        (GenerateRequest, "prompt", ""),
        (GenerateRequest, "negative_prompt", ""),
        (GenerateRequest, "adapter", ""),
        (Structure, "kind", "structure."),
        (Structure, "annotator", "structure."),
    ],
)
def test_a_text_has_a_longest_length(part: type, field: str, prefix: str) -> None:
    longest = "x" * MAX_PROMPT
    assert getattr(part(**PART[part] | {field: longest}), field) == longest
    with pytest.raises(RequestError) as refusal:
        part(**PART[part] | {field: longest + "x"})
    assert str(refusal.value) == (f"{prefix}{field} must have at most 2000 characters, got 2001")


WITH_MASK = Inpaint(image=PICTURE, mask=MASK)
EXACT: list[tuple[type, dict[str, Any], str]] = [
    (
        Inpaint,
        {"mask": Image.new("L", (8, 4))},
        "inpaint.mask must have the size of inpaint.image, 16x16, got 8x4",
    ),
    (
        Inpaint,
        {"mask": Image.new("L", (16, 16))},
        "inpaint.mask is empty: paint the part of the picture to replace",
    ),
    (Inpaint, {"image": 3}, "inpaint.image must be a picture (PIL image), got int"),
    (Inpaint, {"mask": 3}, "inpaint.mask must be a picture (PIL image), got int"),
    (Reference, {"image": 3}, "reference.image must be a picture (PIL image), got int"),
    (Reference, {"mask": 3}, "reference.mask must be a picture (PIL image), got int"),
    (Reference, {"window": 3}, "reference.window must be a (start, end) pair, got 3"),
    (
        Reference,
        {"window": (0.5, 0.25)},
        "reference.window must start before it ends, got (0.5, 0.25)",
    ),
    (Reference, {"window": (0.5, 2)}, "reference.window must be from 0 to 1, got 2"),
    (Reference, {"negative": 1}, "reference.negative must be true or false, got 1"),
    (Structure, {"image": 3}, "structure.image must be a picture (PIL image), got int"),
    (
        Structure,
        {"window": (0, 1, 1)},
        "structure.window must be a (start, end) pair, got (0, 1, 1)",
    ),
    (Structure, {"fit": ""}, "structure.fit must be one of crop, pad, squash, got ''"),
    (GenerateRequest, {"image_window": "ab"}, "image_window must be a (start, end) pair, got 'ab'"),
    (GenerateRequest, {"guidance": "7"}, "guidance must be a number, got '7'"),
    (GenerateRequest, {"steps": 1.5}, "steps must be a whole number, got 1.5"),
    (GenerateRequest, {"combine": "sum"}, "combine must be one of concat, average, got 'sum'"),
    (
        GenerateRequest,
        {"sampler": "lms"},
        f"sampler must be one of {', '.join(SAMPLERS)}, got 'lms'",
    ),
    (GenerateRequest, {"prompt": 3}, "prompt must be text, got 3"),
    (GenerateRequest, {"references": 3}, "references must be a tuple of Reference, got 3"),
    (GenerateRequest, {"structures": [3]}, "structures must be a tuple of Structure, got [3]"),
    (
        GenerateRequest,
        {"references": "x" * 99},
        f"references must be a tuple of Reference, got '{'x' * 79}",
    ),
    (
        GenerateRequest,
        {"image_layers": "some"},
        f"image_layers must be one of {', '.join(LAYER_PRESETS)}, got 'some'",
    ),
    (
        GenerateRequest,
        {"image_layers": 3},
        f"image_layers must be one of {', '.join(LAYER_PRESETS)}, or a number for each "
        "cross-attention layer, got 3",
    ),
    (GenerateRequest, {"image_layers": (1.0, 2.5)}, "image_layers must be from 0 to 2, got 2.5"),
    (GenerateRequest, {"inpaint": PICTURE}, "inpaint must be an Inpaint, got Image"),
    (GenerateRequest, {"init_image": 3}, "init_image must be a picture (PIL image), got int"),
    (
        GenerateRequest,
        {"init_image": PICTURE, "inpaint": WITH_MASK},
        "init_image and inpaint exclude each other: give one of them",
    ),
    (
        GenerateRequest,
        {"references": (Reference(image=PICTURE, only_image=2),), "count": 2},
        "reference.only_image must lie below count, 2, got 2",
    ),
    (GenerateRequest, {"height": 100}, "height must be a multiple of 8, got 100; nearest is 96"),
    (
        GenerateRequest,
        {"width": 1024, "height": 1032},
        "width x height must be at most 1,048,576 pixels, got 1024x1032, 1,056,768",
    ),
    (
        GenerateRequest,
        {"width": 2048, "height": 504},
        "width and height must be at most 4 to 1, got 2048x504",
    ),
]


@pytest.mark.parametrize(("part", "values", "message"), EXACT, ids=[m[:40] for *_, m in EXACT])
def test_what_is_said_in_full(part: type, values: dict, message: str) -> None:
    with pytest.raises(RequestError) as refusal:
        part(**PART[part] | values)
    assert str(refusal.value) == message


def test_factors_of_layers_are_stored_as_floats() -> None:
    for given in ([1, 0.5], (1.0, 0.5)):
        assert GenerateRequest(image_layers=given).image_layers == (1.0, 0.5)
    assert GenerateRequest(image_layers=(0,)).image_layers == (0.0,)
    assert GenerateRequest(image_layers=(2.0,) * 200).image_layers == (2.0,) * 200


def test_the_parts_of_a_structure_on_a_command_line() -> None:
    assert structure_parts("canny=a=b:c.png") == ("canny", None, "a=b:c.png")
    assert structure_parts("canny:lineart=a\nb.png") == ("canny", "lineart", "a\nb.png")
    for wrong in ("canny", "canny=", "=a.png", "a:=b", "a:b:c=d", "x" * 99):
        with pytest.raises(RequestError) as refusal:
            structure_parts(wrong)
        assert str(refusal.value) == (
            f"structure must be KIND=FILE or KIND:ANNOTATOR=FILE, got {wrong!r:.80}"
        )
