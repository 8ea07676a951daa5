"""`--compile`: one graph for whatever a request says, and pictures as without it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from ipadapter_demo.errors import ModelError
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.models.base_model import load_base_model
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.compiled import check_compiler, compile_decoder, compile_network
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.pipeline.warm_up import warm_up
from ipadapter_demo.request import GenerateRequest, Reference, Structure
from tests.tiny import box_mask, picture

LEFT = box_mask((0, 0, 32, 64))
CAT = Reference(image=picture(1))


def request(**changes: object) -> GenerateRequest:
    return GenerateRequest(**{"references": (CAT,), "guidance": 3.0, "steps": 2, **changes})


MAP = picture(5)
REQUESTS = {
    "text alone": request(references=(), prompt="a"),
    "one reference": request(),
    "another λ and guidance": request(image_scale=0.3, guidance=5.0),
    "λ = 0": request(image_scale=0.0),
    "several pictures": request(count=3),
    "more steps": request(steps=4),
    "whole timesteps": request(sampler="ddim"),
    "fractions of timesteps": request(sampler="euler"),
    "Plus": request(adapter="plus"),
    # the mean of a small random encoder is about 0: a larger weight would have no finite factor
    "a weighted prompt": request(prompt="a (b:1.01)", prompt_syntax="weighted", clip_skip=1),
    "layers": request(image_layers=(1.0, 0.0, 0.5, 0.0, 1.0, 1.0, 0.0)),
    "masks, windows, negative ones": request(
        references=(
            CAT,
            Reference(image=picture(2), mask=LEFT),
            Reference(image=picture(3), negative=True),
            Reference(image=picture(4), window=(0.0, 0.5)),
        ),
        count=2,
    ),
    "no guidance": request(guidance=1.0),
    "an edge map": request(
        structures=(Structure(kind="canny", image=MAP, annotator="none", weight=0.5),)
    ),
    "another weight of it": request(
        structures=(Structure(kind="canny", image=MAP, annotator="none", weight=0.7),), count=2
    ),
    "an edge map, guidance in a part": request(
        structures=(Structure(kind="canny", image=MAP, annotator="none"),),
        guidance_window=(0.0, 0.5),
    ),
    "colours": request(structures=(Structure(kind="palette", image=MAP, annotator="none"),)),
}
OTHER_SIZE = request(width=96, height=64)
LONG_PROMPT = replace(REQUESTS["an edge map"], prompt="a " * 30, prompt_syntax="weighted")


@pytest.fixture(scope="module")
def compiled(entry: CatalogEntry) -> Iterator[ImagePromptPipeline]:
    """With torch's front end alone, which makes the graphs: it needs no C++ compiler."""
    torch._dynamo.reset()
    counters.clear()
    model = load_base_model(entry, "cpu", torch.float32)
    side = model.unet.config.sample_size
    compile_network(model.unet, side, "eager", tokens=16)
    compile_network(model.structures["canny"].net, side, "eager", tokens=16)
    compile_decoder(model.vae.autoencoder, side, "eager")
    yield ImagePromptPipeline(model)
    torch._dynamo.reset()


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def apart(one: ImagePromptPipeline, other: ImagePromptPipeline, asked: GenerateRequest) -> int:
    """Grey levels between the pictures of two pipelines."""
    pairs = zip(one.generate(asked).images, other.generate(asked).images, strict=True)
    return max(int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max()) for a, b in pairs)


@pytest.mark.slow
def test_what_a_visitor_asks_for_is_never_compiled_anew(
    compiled: ImagePromptPipeline, pipeline: ImagePromptPipeline
) -> None:
    """Laws 1 and 3 as well: at most one grey level from the pictures that are not compiled."""
    warm_up(compiled)
    made = graphs()
    assert made
    for name, asked in REQUESTS.items():
        assert apart(compiled, pipeline, asked) <= 1, name
        assert graphs() == made, f"{name}: compiled anew"
    assert apart(compiled, pipeline, OTHER_SIZE) <= 1
    assert apart(compiled, pipeline, LONG_PROMPT) <= 1
    assert graphs() == made
    without = compiled.generate(request(references=())).images[0].tobytes()
    assert compiled.generate(request(image_scale=0.0)).images[0].tobytes() == without
    assert not counters["graph_break"]
    assert compiled.provenance["compiled"] is True
    assert "compiled" not in pipeline.provenance


@pytest.mark.parametrize("option", ["offload", "tiling"])
def test_options_that_a_compiled_network_cannot_have(option: str) -> None:
    with pytest.raises(ModelError, match="neither offload nor tiling"):
        check_compiler("cpu", LoadOptions(compile=True, **{option: True}))


def test_no_compiler_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    torch._dynamo.reset()
    with pytest.raises(ModelError, match=r"compile: .* leave --compile out, or install a C\+\+"):
        check_compiler("cpu", LoadOptions(compile=True))
