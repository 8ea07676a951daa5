"""Law 11: proportions in are proportions out."""

from __future__ import annotations

import io
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import T2IAdapter
from PIL import Image

from ipadapter_demo.compare import Job, Plan, spec_from_document
from ipadapter_demo.compare.figure import draw
from ipadapter_demo.errors import ModelError, RequestError
from ipadapter_demo.imaging import PAD_COLOUR, pixels_from_images
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import StructureEntry
from ipadapter_demo.models.sources import Hub
from ipadapter_demo.models.structure import T2IAdapterStructure
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.pipeline.conditioning.maps import MapReader
from ipadapter_demo.pipeline.inpainting.crop import mask_box
from ipadapter_demo.pipeline.inpainting.plan import plan_for
from ipadapter_demo.pipeline.sizes import (
    inner_size,
    limit_on,
    padded,
    reshaped,
    same_shape,
    size_like,
    usual_sizes,
    working_size,
)
from ipadapter_demo.record import request_from_json, request_to_json
from ipadapter_demo.request import Fit, GenerateRequest, Inpaint, Structure
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.size_limits import MAX_AREA
from tests.tiny import box_mask, noise, picture, seeded, tiny_t2i_adapter, tiny_unet

# arXiv 2307.01952, appendix I
SDXL_TRAINED = [
    (512, 2048),
    (512, 1984),
    (512, 1920),
    (512, 1856),
    (576, 1792),
    (576, 1728),
    (576, 1664),
    (640, 1600),
    (640, 1536),
    (704, 1472),
    (704, 1408),
    (704, 1344),
    (768, 1344),
    (768, 1280),
    (832, 1216),
    (832, 1152),
    (896, 1152),
    (896, 1088),
    (960, 1088),
    (960, 1024),
    (1024, 1024),
]


def blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), "teal")


def start(across: int, down: int, **fields: Any) -> GenerateRequest:
    return GenerateRequest(init_image=blank(across, down), **fields)


class TestLimits:
    @pytest.mark.parametrize("size", [*SDXL_TRAINED, *(s[::-1] for s in SDXL_TRAINED)])
    def test_sdxl_s_own_sizes_are_accepted(self, size: tuple[int, int]) -> None:
        request = GenerateRequest(width=size[0], height=size[1])
        assert working_size(request, 1024) == size

    @pytest.mark.parametrize(
        ("width", "height", "message"),
        [
            (1032, 1024, r"^width x height must be at most 1,048,576 pixels, got 1032x1024, 1,0"),
            (2048, 520, r"at most 1,048,576 pixels, got 2048x520"),
            (512, 120, r"^width and height must be at most 4 to 1, got 512x120$"),
            (64, 1024, "at most 4 to 1, got 64x1024"),
            (2056, 512, r"^width must be from 32 to 2048, got 2056"),
            (24, 64, r"^width must be from 32 to 2048, got 24"),
        ],
    )
    def test_area_and_proportions_are_limited(self, width: int, height: int, message: str) -> None:
        with pytest.raises(RequestError, match=message):
            GenerateRequest(width=width, height=height)

    def test_the_sizes_to_choose_from_are_sdxl_s(self) -> None:
        assert usual_sizes(1024) == [
            (1024, 1024),
            (1152, 896),
            (1216, 832),
            (1344, 768),
            (1536, 640),
            (896, 1152),
            (832, 1216),
            (768, 1344),
            (640, 1536),
        ]
        for native in (64, 128, 512, 768, 1024):
            for width, height in usual_sizes(native):
                assert working_size(GenerateRequest(width=width, height=height), native)


class TestProportions:
    @pytest.mark.parametrize("native", range(64, 1025, 8))
    def test_the_law(self, native: int) -> None:
        """Within a step of 8 a side, and within 10 % of the model's own area."""
        for i in range(-40, 41):
            shape = (round(5000 * 2 ** (i / 20)), 5000)
            width, height = size_like(shape, native)
            assert width % 8 == height % 8 == 0
            exact = math.sqrt(native**2 * shape[0] / shape[1])
            assert abs(width - exact) <= 8
            assert abs(height - exact * shape[1] / shape[0]) <= 8
            assert abs(width * height / native**2 - 1) <= 0.1
            assert width * height <= MAX_AREA
            assert GenerateRequest(width=width, height=height), "it can be asked for"

    def test_with_one_side_given_the_other_follows(self) -> None:
        for i, side in itertools.product(range(-20, 21), (64, 128, 256, 504)):
            given = (round(64 * 2 ** (i / 10)), 64)
            width, height = working_size(start(*given, width=side), 128)
            assert width == side
            wanted = side * given[1] / given[0]
            assert abs(height - wanted) <= 4 or (wanted < 32 and height == 32)
            sideways = working_size(start(*given[::-1], height=side), 128)
            assert sideways == (height, width)

    @pytest.mark.parametrize(
        ("request_", "native", "expected"),
        [
            (start(256, 128, width=256), 128, (256, 128)),
            (start(1920, 1080, width=256), 128, (256, 144)),
            (start(1080, 1920, height=256), 512, (144, 256)),
            (start(1920, 1080), 1024, (1360, 768)),
            (start(1920, 1080), 512, (680, 384)),
            (start(1920, 1080, width=512, height=512), 512, (512, 512)),
            (start(4000, 100), 512, (1024, 256)),
            (start(100, 100, width=2048), 1024, (2048, 512)),
            (GenerateRequest(), 128, (128, 128)),
            (GenerateRequest(width=96), 128, (96, 128)),
            (GenerateRequest(width=2048), 1024, (2048, 512)),
            (GenerateRequest(height=64), 1024, (256, 64)),
        ],
    )
    def test_right_values(
        self, request_: GenerateRequest, native: int, expected: tuple[int, int]
    ) -> None:
        assert working_size(request_, native) == expected

    def test_a_picture_to_inpaint_is_drawn_in_its_proportions(self) -> None:
        given = Inpaint(image=blank(1920, 1080), mask=box_mask((0, 0, 99, 99), 1920, 1080))
        assert working_size(GenerateRequest(inpaint=given), 1024) == (1360, 768)

    @pytest.mark.parametrize("shape", [(256, 64), (64, 256)])
    def test_four_to_one_is_drawn(
        self, pipeline: ImagePromptPipeline, shape: tuple[int, int]
    ) -> None:
        """The smallest sides there are, with every network."""
        given = picture(1, *shape)
        request = GenerateRequest(
            init_image=given,
            steps=2,
            structures=(
                Structure(kind="canny", image=given, annotator="lineart"),
                Structure(kind="palette", image=given, annotator="palette"),
            ),
        )
        result = pipeline.generate(request)
        assert result.images[0].size == tuple(side // 2 for side in shape)
        assert not result.warnings

    def test_ten_to_one_is_cropped_or_squeezed_and_said(
        self, pipeline: ImagePromptPipeline
    ) -> None:
        long = picture(1, 640, 64)
        result = pipeline.generate(GenerateRequest(init_image=long, steps=2))
        assert result.images[0].size == (128, 32)
        assert result.warnings == (
            "init_image: it is cropped to the proportions of the output, 128x32.",
        )
        mask = box_mask((0, 0, 64, 64), 640, 64)
        result = pipeline.generate(GenerateRequest(inpaint=Inpaint(image=long, mask=mask), steps=2))
        assert result.images[0].size == (640, 64)
        assert result.warnings == (
            "inpaint.image: 640x64 is squeezed to 128x32; at most 4 to 1 is "
            "drawn; inpaint.context below 1 draws less of it.",
        )


class TestReshaped:
    HALVES = Image.new("RGB", (96, 32), "red")
    HALVES.paste("blue", (32, 0, 64, 32))

    def test_crop_keeps_the_middle_in_its_proportions(self) -> None:
        assert reshaped(self.HALVES, (64, 64), "crop").getcolors() == [(4096, (0, 0, 255))]

    def test_pad_keeps_all_of_it(self) -> None:
        padded = np.asarray(reshaped(self.HALVES, (96, 96), "pad"))
        assert np.array_equal(padded[32:64], np.asarray(self.HALVES))
        assert not padded[:32].any()
        assert not padded[64:].any()

    def test_squash_changes_the_proportions(self) -> None:
        squashed = reshaped(self.HALVES, (96, 96), "squash")
        assert squashed == self.HALVES.resize((96, 96), Image.Resampling.BICUBIC)

    def test_the_same_shape_is_only_scaled(self) -> None:
        wide = picture(1, 1920, 1080)
        expected = wide.resize((680, 384), Image.Resampling.BICUBIC)
        for fit in ("crop", "pad", "squash"):
            assert reshaped(wide, (680, 384), fit) == expected  # type: ignore[arg-type]

    def test_what_the_same_shape_is(self) -> None:
        assert same_shape((1920, 1080), (680, 384))
        assert not same_shape((1920, 1080), (512, 512))
        assert not same_shape((144, 128), (128, 128))
        assert same_shape((144, 128), (128, 128), within=8)
        assert same_shape((128, 128), (132, 124)), "just as far off as it may be"

    def test_a_picture_that_is_started_from_is_cropped(self) -> None:
        wide = picture(1, 192, 32)
        plan = plan_for(GenerateRequest(init_image=wide, width=64, height=32), 64)
        expected = pixels_from_images([wide.crop((64, 0, 128, 32))])
        assert torch.equal(plan.init_pixels(), expected)

    def test_a_thread_keeps_some_pixels(self) -> None:
        assert inner_size((5000, 3), (64, 64)) == (64, 8)
        assert inner_size((3, 2), (64, 64)) == (64, 43)


@pytest.mark.parametrize(
    ("sides", "shape", "said"),
    [
        (
            {"width": 1024},
            (100, 400),  # just four to one
            "width 1024 leaves at most 1024 beside it: a picture has at most 1024 x 1024 pixels; "
            "a width of 512 or less keeps the proportions",
        ),
        (
            {"width": 2048},
            (400, 100),
            "width 2048 leaves at most 512 beside it: a picture has at most 1024 x 1024 pixels; "
            "a width of 2048 or less keeps the proportions",
        ),
        (
            {"height": 1024},
            (400, 200),
            "height 1024 leaves at most 1024 beside it: a picture has at most 1024 x 1024 pixels; "
            "a height of 720 or less keeps the proportions",
        ),
        (
            {"width": 64},
            (200, 100),  # just the 32 pixels that a side has
            "width 64 leaves at most 32 beside it: a picture has at most 1024 x 1024 pixels; "
            "a width of 1448 or less keeps the proportions",
        ),
        (
            {"height": 40},
            (40, 120),
            "height 40 would have 13 beside it: a side has at least 32 pixels; a height of 96 or "
            "more keeps the proportions",
        ),
        (
            {"height": 64},
            (401, 100),
            "at most 4 to 1 is drawn; inpaint.context below 1 draws less of it",
        ),
        ({}, (100, 100), "at most 4 to 1 is drawn; inpaint.context below 1 draws less of it"),
    ],
)
def test_which_limit_keeps_a_shape_away(
    sides: dict[str, int], shape: tuple[int, int], said: str
) -> None:
    assert limit_on(GenerateRequest(**sides), shape) == said


def test_the_limits_of_a_size_that_nobody_gave() -> None:
    """The nearest to the proportions, never below 32 pixels a side, above the area or 4 to 1."""
    for native, shape, size in (
        (32, (100, 100), (32, 32)),
        (64, (400, 100), (128, 32)),
        (64, (100, 401), (32, 128)),
        (1024, (100, 100), (1024, 1024)),
        (2048, (100, 100), (1024, 1024)),
        (1024, (401, 100), (2048, 512)),
        (512, (300, 200), (624, 416)),
        (512, (200, 300), (416, 624)),
    ):
        assert size_like(shape, native) == size


def test_padding_is_even_on_both_sides() -> None:
    """The odd pixel goes to the right and to the bottom."""
    whole = padded(blank(4, 3), (11, 8), (1, 2, 3))
    assert (whole.mode, whole.size) == ("RGB", (11, 8))
    for box, inside in (((3, 2, 7, 5), True), ((0, 0, 3, 8), False), ((7, 0, 11, 8), False)):
        assert (
            whole.crop(box).getcolors() == [((box[2] - box[0]) * (box[3] - box[1]), (1, 2, 3))]
        ) != inside
    assert whole.crop((3, 2, 7, 5)) == blank(4, 3)
    assert whole.getcolors() == [(76, (1, 2, 3)), (12, (0, 128, 128))]
    assert padded(blank(4, 4), (8, 8)).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_a_picture_is_filtered_as_it_is_told(fit: Fit) -> None:
    """A map of classes has no colours between two of them."""
    given = picture(1, 192, 64)
    own = set(given.get_flattened_data()) | {(0, 0, 0)}
    seen = reshaped(given, (40, 40), fit, Image.Resampling.NEAREST)
    assert set(seen.get_flattened_data()) <= own
    assert not set(reshaped(given, (40, 40), fit).get_flattened_data()) <= own


def test_an_odd_pixel_is_cut_off_at_the_right_and_the_bottom() -> None:
    wide = Image.new("RGB", (71, 40), "red")
    wide.paste("teal", (15, 0, 55, 40))
    assert reshaped(wide, (64, 64), "crop") == blank(64, 64)
    assert reshaped(wide.transpose(Image.Transpose.TRANSPOSE), (64, 64), "crop") == blank(64, 64)


class TestMaps:
    """Of another shape than the output."""

    WIDE = picture(3, 192, 64)

    def test_the_middle_is_cropped_unless_told_otherwise(
        self, pipeline: ImagePromptPipeline
    ) -> None:
        middle = self.WIDE.crop((64, 0, 128, 64))
        structure = Structure(kind="canny", image=self.WIDE)
        assert pipeline.structure_map(structure) == middle
        squashed = pipeline.structure_map(replace(structure, fit="squash"))
        assert squashed == self.WIDE.resize((64, 64), Image.Resampling.BICUBIC)

    def test_padding_is_no_edge(self, pipeline: ImagePromptPipeline) -> None:
        structure = Structure(kind="canny", image=blank(192, 64), annotator="canny", fit="pad")
        assert pipeline.structure_map(structure).getbbox() is None
        colours = Structure(kind="palette", image=blank(192, 64), annotator="palette", fit="pad")
        drawn = pipeline.structure_map(colours)
        assert drawn.getpixel((32, 2)) == PAD_COLOUR
        assert drawn.getpixel((32, 32)) == (0, 128, 128)

    def test_maps_of_a_request_have_the_size_of_its_output(
        self, pipeline: ImagePromptPipeline
    ) -> None:
        structures = (Structure(kind="canny", image=self.WIDE),)
        request = GenerateRequest(structures=structures, width=96, height=32)
        assert pipeline.structure_maps(request) == [
            self.WIDE.resize((96, 32), Image.Resampling.BICUBIC)
        ]

    @pytest.mark.parametrize("fit", ["crop", "pad"])
    def test_a_detector_is_looked_for_where_the_model_says(
        self, model: BaseModel, fit: Fit
    ) -> None:
        def nowhere(hub: Hub) -> Path:
            raise ModelError(f"{hub.repo} is asked for")

        edges = StructureEntry(folder=Path(), network="controlnet", annotators=("softedge",))
        entry = replace(model.entry, structures={"softedge": edges})
        maps = MapReader(replace(model, entry=entry, locate=nowhere))
        wanted = Structure(kind="softedge", annotator="softedge", image=self.WIDE, fit=fit)
        with pytest.raises(ModelError, match="lllyasviel/Annotators is asked for"):
            maps.structure_map(wanted, (64, 64))

    def test_the_fit_has_an_effect_and_a_note(self, pipeline: ImagePromptPipeline) -> None:
        made = {}
        for fit, done in (("crop", "cropped"), ("pad", "padded"), ("squash", "squeezed")):
            structure = Structure(kind="canny", image=self.WIDE, fit=fit)  # type: ignore[arg-type]
            result = pipeline.generate(GenerateRequest(structures=(structure,), steps=2))
            made[fit] = result.images[0].tobytes()
            assert result.warnings == (
                f"structure.fit: the picture of structure 1 (canny) is {done} to the "
                "proportions of the output, 64x64.",
            )
        assert len(set(made.values())) == 3

    def test_a_close_up_s_map_is_cropped_with_its_picture(
        self, pipeline: ImagePromptPipeline
    ) -> None:
        mask = box_mask((24, 24, 40, 40), 64, 64)
        request = GenerateRequest(
            inpaint=Inpaint(image=picture(1), mask=mask, context=0.5),
            steps=2,
            structures=(Structure(kind="canny", image=self.WIDE),),
        )
        middle = replace(
            request, structures=(Structure(kind="canny", image=self.WIDE.crop((64, 0, 128, 64))),)
        )
        assert pipeline.structure_maps(request) == pipeline.structure_maps(middle)
        [note] = pipeline.generate(request).warnings
        assert "cropped to the proportions of the output, 64x64" in note

    @pytest.mark.parametrize("context", [1.0, 0.6])
    @pytest.mark.parametrize("side", [0, 80, 144])  # in the left bar, the picture, the right bar
    def test_padding_beside_a_close_up_is_no_edge(
        self, side: int, context: float, pipeline: ImagePromptPipeline
    ) -> None:
        mask = box_mask((side, 20, side + 40, 60), 192, 64)
        inpaint = Inpaint(image=blank(192, 64), mask=mask, context=context)

        def map_of(kind: str, annotator: str, image: Image.Image) -> Image.Image:
            structure = Structure(kind=kind, image=image, annotator=annotator, fit="pad")
            request = GenerateRequest(inpaint=inpaint, structures=(structure,))
            return pipeline.structure_maps(request)[0]

        assert map_of("canny", "canny", blank(64, 64)).getbbox() is None
        colours = map_of("palette", "palette", blank(64, 64)).getcolors()
        assert {colour for _, colour in colours} == {PAD_COLOUR, (0, 128, 128)}
        two = blank(64, 64)
        two.paste("white", (0, 0, 32, 64))
        placed = Image.new("RGB", (192, 64), PAD_COLOUR)
        placed.paste(two, (64, 0))
        drawn = map_of("palette", "none", two)
        expected = placed.crop(mask_box(mask, context)).resize(drawn.size)
        apart = np.abs(np.asarray(drawn, int) - np.asarray(expected, int))
        assert apart.mean() < 3, "each colour where it belongs, but for the rim"

    def test_a_close_up_in_the_padding_holds_nothing(self, pipeline: ImagePromptPipeline) -> None:
        given = picture(3, 64, 64)
        mask = box_mask((0, 20, 20, 40), 192, 64)
        request = GenerateRequest(
            inpaint=Inpaint(image=blank(192, 64), mask=mask, context=0.2),
            structures=(Structure(kind="palette", image=given, annotator="palette", fit="pad"),),
        )
        assert pipeline.structure_maps(request)[0].getcolors() == [(64 * 64, PAD_COLOUR)]

    def test_a_record_from_before_has_the_default(self) -> None:
        request = GenerateRequest(structures=(Structure(kind="canny", image=picture(1)),))
        record = request_to_json(request)
        assert record["request"]["structures"][0].pop("fit") == "crop"
        assert request_from_json(record) == request
        other = GenerateRequest(structures=(Structure(kind="canny", image=picture(1), fit="pad"),))
        assert request_from_json(request_to_json(other)) == other != request

    def test_another_fit_is_refused(self) -> None:
        with pytest.raises(RequestError, match=r"structure.fit must be one of crop, pad, sq"):
            Structure(kind="canny", image=picture(1), fit="stretch")  # type: ignore[arg-type]


class TestT2IAdapters:
    """SDXL's read cells of 16 pixels: sides are multiples of 8."""

    @pytest.mark.parametrize("size", [(72, 88), (88, 72), (136, 64), (64, 64)])
    def test_an_odd_number_of_steps_is_read(self, size: tuple[int, int]) -> None:
        with seeded(1):
            net = T2IAdapter(
                in_channels=3,
                channels=[8, 16, 24],
                num_res_blocks=1,
                downscale_factor=16,
                adapter_type="full_adapter_xl",
            ).eval()
        drawn = noise(2, 1, 3, size[1], size[0]).sigmoid()
        read = T2IAdapterStructure(net).read(drawn).seen
        unet = tiny_unet(
            block_out_channels=(8, 16, 24),
            attention_head_dim=(1, 2, 3),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        )
        with torch.no_grad():  # an autoencoder of factor 8, as SDXL's
            out = unet(
                noise(3, 1, 4, size[1] // 8, size[0] // 8),
                1,
                noise(4, 1, 6, 24),
                down_intrablock_additional_residuals=list(read),
            ).sample
        assert out.shape[2:] == (size[1] // 8, size[0] // 8)
        assert read[0].shape[2:] == (math.ceil(size[1] / 16), math.ceil(size[0] / 16))
        whole = [side // 16 * 16 for side in size]
        with torch.no_grad():
            inner = net(drawn[:, :, : whole[1], : whole[0]])[0]
        torch.testing.assert_close(read[0][:, :, 0, 0], inner[:, :, 0, 0])

    def test_whole_cells_are_read_as_they_are(self) -> None:
        net = tiny_t2i_adapter(tiny_unet())
        drawn = noise(1, 1, 3, 72, 88).sigmoid()
        with torch.no_grad():
            expected = net(drawn)
        for ours, theirs in zip(T2IAdapterStructure(net).read(drawn).seen, expected, strict=True):
            assert torch.equal(ours, theirs)


def test_a_figure_squeezes_no_cell(pipeline: ImagePromptPipeline, tmp_path: Path) -> None:
    """Nor what is shown beside them: pictures of several shapes stand in one grid."""
    wide = io.BytesIO()
    picture(1, 128, 64).save(wide, "PNG")
    document = {
        "request": {"steps": 2},
        "rows": {"reference": ["wide.png"]},
        "columns": {"method": ["as it is", "image to image"]},
        "beside": ["reference"],
    }
    spec = spec_from_document(document, lambda _: wide.getvalue())
    job = Job(Plan(spec, ModelManager(pipeline)), tmp_path)
    job.save_given()
    assert len(list(job.run())) == 2
    figure = draw(job, 1, job.plan.spec.comparison.figure)
    width, height = figure.get_size_inches()
    shapes = []
    for axes in figure.axes:
        box, [shown] = axes.get_position(), axes.images
        rows, columns = shown.get_array().shape[:2]
        assert box.height * height / (box.width * width) == pytest.approx(rows / columns)
        shapes.append((columns, rows))
    assert shapes == [(128, 64), (64, 64), (88, 48)]
