"""What is left of a comparison whatever happens while its figure, its caption or its numbers are
made; how large a figure may be; and with which fonts."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import tracemalloc
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import noto_cjk_sans_jp_regular
import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image
from pypdf import PdfReader

from ipadapter_demo.compare import (
    ComparisonWarning,
    Done,
    Job,
    Plan,
    Spec,
    draw_comparison,
    fonts,
    spec_from_document,
)
from ipadapter_demo.compare import publish as publishing
from ipadapter_demo.compare.figure import draw
from ipadapter_demo.compare.text import latex, listed, printable, wrapped
from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.serving import ModelManager
from tests.tiny import picture

DATES = ["2024-05-01", "2024-05-02", "2024-05-03", "2024-05-04"]
HAN, KANA, HANGUL = "红色球体", "赤い球とコーン", "빨간 구체"
FONT = Path(str(noto_cjk_sans_jp_regular.FONT_PATH))


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def spec(document: dict[str, Any], image: Image.Image | None = None) -> Spec:
    return spec_from_document(
        {"request": {"steps": 1}} | document, lambda name: png(image or picture(1))
    )


@pytest.fixture
def manager(pipeline: ImagePromptPipeline) -> ModelManager:
    return ModelManager(pipeline)


@pytest.fixture
def published(manager: ModelManager, tmp_path: Path) -> Callable[[dict[str, Any]], list[str]]:
    """The names in the bundle of a comparison that is drawn in `tmp_path`."""

    def draw_and_list(document: dict[str, Any]) -> list[str]:
        events: list[Any] = []
        path = draw_comparison(spec(document), tmp_path, manager, report=events.append)
        with zipfile.ZipFile(path) as bundle:
            warnings = (
                bundle.read("warnings.txt").decode() if "warnings.txt" in bundle.namelist() else ""
            )
            assert warnings.splitlines() == [
                e.message for e in events if isinstance(e, ComparisonWarning)
            ]
            return bundle.namelist()

    return draw_and_list


class TestLists:
    @pytest.mark.parametrize(
        ("heads", "expected"),
        [
            (DATES, ", ".join(DATES)),
            ([f"v1.0.{i}" for i in range(4)], "v1.0.0, v1.0.1, v1.0.2, v1.0.3"),
            (["1-1", "1-2", "1-3", "1-4"], "1-1, 1-2, 1-3, 1-4"),
            (
                [f"Screenshot 2024-05-01-10-20-3{i}" for i in range(4)],
                ", ".join(f"Screenshot 2024-05-01-10-20-3{i}" for i in range(4)),
            ),
            (["λ = 0", "λ = 0.2", "λ = 0.4", "λ = 0.6"], "λ = 0, 0.2, …, 0.6"),
            (["seed 1", "seed 2", "seed 3", "seed 4"], "seed 1, 2, …, 4"),
            (["λ = 0", "λ = 0.1", "λ = 0.5", "λ = 1"], "λ = 0, λ = 0.1, λ = 0.5, λ = 1"),
            (["-1", "-0.5", "0", "0.5"], "-1, -0.5, …, 0.5"),
            (["..", "..", "..", ".."], ".., .., .., .."),
            (["-", "--", "-.", ".-"], "-, --, -., .-"),
            (["9" * 400] * 4, ", ".join(["9" * 400] * 4)),
            (
                [f"photo {c}" for c in "abcdefghij"],
                "photo a, photo b, photo c, photo d, photo e, photo f, photo g, …",
            ),
        ],
    )
    def test_numbers_in_even_steps_are_told_shortly(self, heads: list[str], expected: str) -> None:
        assert listed(heads) == expected

    def test_no_text_is_too_odd(self) -> None:
        """Any text at all can be listed, printed, wrapped and put into LaTeX."""
        choose = random.Random(20)
        alphabet = "0123456789-.eE+ v=λ,\n\x00\u202e\ufe0f\ud800\U0001f389红あ구שß_$%#&~^\\{}"
        alphabet += "".join(chr(choose.randrange(0x110000)) for _ in range(200))
        for _ in range(500):
            heads = [
                "".join(choose.choices(alphabet, k=choose.randrange(12)))
                for _ in range(choose.randrange(1, 12))
            ]
            assert isinstance(listed(heads), str)
            for head in heads:
                latex(head).encode()
                assert "\n" not in printable(head)
                assert wrapped(head, 40, 7).count("\n") < 6
        numbers = "0123456789-."
        for _ in range(2000):
            assert listed(
                [
                    "x" + "".join(choose.choices(numbers, k=choose.randrange(6)))
                    for _ in range(choose.randrange(1, 6))
                ]
            )


class TestWhateverHappens:
    @pytest.mark.parametrize("heads", [DATES, ["v1.0.0", "v1.0.1", "v1.0.2", "v1.0.3"]])
    def test_a_comparison_of_dates_is_published(
        self, published: Callable[..., list[str]], tmp_path: Path, heads: list[str]
    ) -> None:
        names = published({"columns": {"seed": "1:4"}, "labels": {"columns": heads}})
        assert {"figure-p1.pdf", "figure.tex", "scores.csv", "manifest.json"} < set(names)
        assert "warnings.txt" not in names
        assert f"Columns: {', '.join(heads)}." in (tmp_path / "figure.tex").read_text()

    @pytest.mark.parametrize(
        ("place", "part", "lost"),
        [
            ("snippet", "figure.tex", {"figure.tex"}),
            ("scores", "scores.csv", {"scores.csv"}),
            ("maps_by_cell", "a map of a structure", set()),
            (
                "page_figures",
                "page 1 of the figure",
                {f"figure-p{p}.{kind}" for p in (1, 2) for kind in ("pdf", "svg", "png")},
            ),
        ],
    )
    def test_a_part_that_fails_is_left_out_and_said(
        self,
        published: Callable[..., list[str]],
        tmp_path: Path,
        place: str,
        part: str,
        lost: set[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        document = {"columns": {"seed": [1, 2]}, "pages": {"guidance": [1, 2]}}
        whole = published(document)
        for error in (MemoryError(), RuntimeError("font"), RequestError("why")):

            def fail(*arguments: Any, error: Exception = error) -> Any:
                raise error

            for name in lost:
                (tmp_path / name).write_text("of the time before")
            monkeypatch.setattr(publishing, place, fail)
            names = published(document)
            assert set(names) == set(whole) - lost | {"warnings.txt"}
            assert not any((tmp_path / name).exists() for name in lost), "of the time before"
            said = (tmp_path / "warnings.txt").read_text()
            reason = "why" if isinstance(error, RequestError) else type(error).__name__
            assert f"{part} could not be made: " in said
            assert reason in said
        monkeypatch.undo()
        assert published(document) == whole

    def test_a_bundle_is_written_file_by_file(self, tmp_path: Path) -> None:
        """Hundreds of cells with large references in them take no memory."""
        names = [f"{n}.png" for n in range(12)] + ["figure.svg"]
        for name in [*names, "spec.json"]:
            (tmp_path / name).write_bytes(random.Random(name).randbytes(2**20))
        grid, spec = SimpleNamespace(pages=[]), SimpleNamespace(files={})
        job: Any = SimpleNamespace(folder=tmp_path, plan=SimpleNamespace(grid=grid, spec=spec))
        tracemalloc.start()
        path = publishing._zipped(job, names)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 5 * 2**20
        with zipfile.ZipFile(path) as bundle:
            assert bundle.testzip() is None
            kinds = {entry.filename: entry.compress_type for entry in bundle.infolist()}
        deflated = {"figure.svg", "spec.json"}
        assert kinds == {
            name: zipfile.ZIP_DEFLATED if name in deflated else zipfile.ZIP_STORED
            for name in [*names, "spec.json"]
        }
        first = path.read_bytes()
        for name in names:
            os.utime(tmp_path / name, (10**9, 10**9))
        assert publishing._zipped(job, names).read_bytes() == first
        assert len([*tmp_path.iterdir()]) == len(names) + 2, "no part of it is left"

    def test_a_format_that_fails_leaves_the_others(
        self, published: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save = Figure.savefig

        def small(self: Figure, target: Any, **options: Any) -> None:
            if options["format"] == "png":
                raise MemoryError
            save(self, target, **options)

        monkeypatch.setattr(Figure, "savefig", small)
        names = published({"columns": {"seed": [1]}})
        assert {"figure-p1.pdf", "figure-p1.svg", "cells/p1-r1-c1.png", "warnings.txt"} < set(names)
        assert "figure-p1.png" not in names

    def test_a_clip_that_is_none_costs_the_numbers_and_nothing_else(
        self, manager: ModelManager, tmp_path: Path
    ) -> None:
        events: list[Any] = []
        path = draw_comparison(
            spec({"columns": {"seed": [1]}}),
            tmp_path / "out",
            manager,
            clip=tmp_path,
            report=events.append,
        )
        assert [type(event) for event in events] == [Done, ComparisonWarning]
        assert "scores.csv could not be made: clip:" in events[1].message
        assert "manifest.json" in zipfile.ZipFile(path).namelist()


class TestSize:
    @pytest.mark.parametrize(
        ("figure", "rows", "message"),
        [
            (
                {"width": 20, "dpi": 600},
                100,
                r"page 1 may take 12,000 x [\d,]+ pixels, of which "
                r"50,000,000 .*figure.dpi of \d\d \(got 600\).*\(got 20 inches\)",
            ),
            ({"width": "double", "dpi": 600}, 100, r"page 1 may take 4,125 x 4\d\d,\d\d\d pixels"),
            ({"width": "double"}, 100, r"figure.dpi of 10\d \(got 300\)"),
            (
                {"width": "single", "dpi": 72},
                100,
                "inches high, and no more than 200 can be opened",
            ),
        ],
    )
    def test_a_figure_too_large_is_refused_before_anything_is_drawn(
        self, manager: ModelManager, figure: dict[str, Any], rows: int, message: str
    ) -> None:
        with pytest.raises(RequestError, match=message):
            Plan(
                spec(
                    {"columns": {"guidance": [1]}, "rows": {"seed": f"1:{rows}"}, "figure": figure}
                ),
                manager,
            )

    def test_columns_need_room(self, manager: ModelManager) -> None:
        with pytest.raises(RequestError, match=r"figure.width: 60 columns have no room in 1 inch"):
            Plan(spec({"columns": {"seed": "1:60"}, "figure": {"width": 1}}), manager)

    def test_what_passes_can_be_drawn(self, manager: ModelManager, tmp_path: Path) -> None:
        """The dpi that a refusal names passes, and what is drawn is within the limit."""
        document = {
            "columns": {"guidance": [1]},
            "rows": {"seed": "1:20"},
            "figure": {"width": "double", "dpi": 600},
        }
        with pytest.raises(RequestError) as caught:
            Plan(spec(document), manager)
        dpi = int(str(caught.value).split("figure.dpi of ")[1].split()[0])
        plan = Plan(spec(document | {"figure": {"width": "double", "dpi": dpi}}), manager)
        figure = draw(Job(plan, tmp_path), 1, plan.spec.comparison.figure)
        width, height = figure.get_size_inches() * dpi
        assert 0.8 * 50_000_000 < width * height <= 50_000_000

    def test_pictures_of_a_page_are_held_within_the_limit(
        self, manager: ModelManager, tmp_path: Path
    ) -> None:
        """A picture that is inpainted keeps its size as a cell; on a page of many it is shrunk."""
        document = {
            "columns": {"seed": "1:8"},
            "beside": ["reference"],
            "request": {"steps": 1, "references": [{"image": "a.png"}]},
        }
        plan = Plan(spec(document), manager)
        job = Job(plan, tmp_path)
        for cell in plan.grid.cells:
            job.path(cell).parent.mkdir(exist_ok=True)
            Image.new("RGB", (4000, 3000)).save(job.path(cell), compress_level=1)
        figure = draw(job, 1, plan.spec.comparison.figure)
        shown = [image.get_array().shape for axes in figure.axes for image in axes.images]
        assert len(shown) == 8
        assert 45_000_000 < sum(h * w for h, w, _ in shown) * 9 / 8 <= 50_000_000

    def test_cells_keep_their_proportions_beside_a_long_reference(
        self, manager: ModelManager, tmp_path: Path
    ) -> None:
        wide = picture(1).resize((300, 100))
        document = {
            "columns": {"image_scale": [1]},
            "rows": {"reference": ["w.png"]},
            "beside": ["reference"],
        }
        plan = Plan(spec(document, wide), manager)
        job = Job(plan, tmp_path)
        job.save_given()
        list(job.run())
        figure = draw(job, 1, plan.spec.comparison.figure)
        width, height = figure.get_size_inches()
        boxes = [axes.get_position() for axes in figure.axes]
        aspects = [box.width * width / (box.height * height) for box in boxes]
        assert aspects == pytest.approx([3, 1], rel=1e-6)


@pytest.fixture
def with_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A system that has one more font, installed since matplotlib looked for any."""
    (tmp_path / "fonts").mkdir()
    (tmp_path / "fonts" / FONT.name).symlink_to(FONT)
    monkeypatch.setattr(font_manager, "X11FontDirectories", [str(tmp_path / "fonts")])
    known = list(font_manager.fontManager.ttflist)
    forget()
    yield
    font_manager.fontManager.ttflist = known
    forget()


@pytest.fixture
def without_font(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    forget()
    yield
    forget()


def forget() -> None:
    fonts._system_fonts.cache_clear()
    fonts._found.cache_clear()


OTHER_SCRIPTS: dict[str, Any] = {
    "columns": {"seed": [1, 2]},
    "rows": {"guidance": [1]},
    "labels": {"columns": [HAN, f"λ = 1, {KANA}"], "rows": [HANGUL]},
}


class TestOtherScripts:
    def test_heads_are_letters_where_the_system_has_a_font(
        self, with_font: None, published: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        assert "warnings.txt" not in published(OTHER_SCRIPTS)
        shown = PdfReader(tmp_path / "figure-p1.pdf").pages[0].extract_text()
        svg = (tmp_path / "figure-p1.svg").read_text(encoding="utf-8")
        for head in (HAN, KANA, HANGUL, "λ = 1"):
            assert head in shown
            assert head in svg
        assert "cjk" not in shown.lower()

    def test_every_letter_has_a_shape_of_its_own(self, with_font: None) -> None:
        """Drawn, they are neither alike nor boxes, and no wider than what they were wrapped to."""

        def ink(text: str) -> np.ndarray:
            figure = Figure(figsize=(0.5, 0.5))
            figure.text(0.2, 0.3, text, family=fonts.families(text), fontsize=12)
            figure.savefig(content := io.BytesIO(), format="png", dpi=100)
            return np.asarray(Image.open(content).convert("L"))

        drawn = [ink(letter) for letter in "红球赤い빨구"]
        assert all((image < 128).sum() > 20 for image in drawn)
        assert all((one != other).sum() > 20 for i, one in enumerate(drawn) for other in drawn[:i])
        assert printable("红 🎉") == "红 [party popper]"

    def test_without_a_font_they_are_named_and_a_note_says_so(
        self, without_font: None, published: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        assert "warnings.txt" in published(OTHER_SCRIPTS)
        assert "no font on this machine has 빨" in (tmp_path / "warnings.txt").read_text()
        assert "Noto Sans CJK" in (tmp_path / "warnings.txt").read_text()
        shown = PdfReader(tmp_path / "figure-p1.pdf").pages[0].extract_text()
        assert "[hangul" in shown

    def test_symbols_need_no_note(self, without_font: None, published: Any) -> None:
        assert "warnings.txt" not in published(
            {"columns": {"seed": [1]}, "labels": {"columns": ["a 🎉 \ufe0f"]}}
        )

    def test_a_caption_says_what_it_takes_to_compile(
        self, with_font: None, published: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        published(OTHER_SCRIPTS)
        tex = (tmp_path / "figure.tex").read_text(encoding="utf-8")
        assert f"Columns: {HAN}, $\\lambda$ = 1, {KANA}." in tex
        assert tex.startswith("% The caption has letters that pdfLaTeX stops at")
        assert "xeCJK" in tex

    def test_a_caption_in_latin_letters_says_nothing(
        self, published: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        published({"columns": {"seed": [1]}, "labels": {"columns": ["grüne Kegel, λ – “ja”"]}})
        assert "%" not in (tmp_path / "figure.tex").read_text(encoding="utf-8")

    def test_a_font_installed_on_the_system_is_found_by_the_command(self, tmp_path: Path) -> None:
        """With no help from this process: a folder of fonts as a user has one."""
        (tmp_path / "share" / "fonts").mkdir(parents=True)
        (tmp_path / "share" / "fonts" / FONT.name).symlink_to(FONT)
        script = "from ipadapter_demo.compare.text import printable; print(ascii(printable('红')))"
        said = subprocess.run(
            [sys.executable, "-c", script],
            cwd=Path(__file__).parent.parent,
            text=True,
            check=True,
            capture_output=True,
            env={
                "XDG_DATA_HOME": str(tmp_path / "share"),
                "PATH": "",
                "MPLCONFIGDIR": str(tmp_path),
            },
        )
        assert json.loads(said.stdout.replace("'", '"')) == "红"
        assert unicodedata.category("红") == "Lo"
