"""Published models load from the very layout of the hub, and every wrong file has its own error."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionAdapterPipeline,
    StableDiffusionPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModelWithProjection

from benchmarks.full_size import SD15_UNET, SDXL_UNET
from ipadapter_demo.adapter import (
    ImageAdapter,
    LinearProjection,
    MLPProjection,
    Projection,
    Resampler,
    save_image_adapter,
)
from ipadapter_demo.errors import CheckpointError, ModelError, RequestError
from ipadapter_demo.layer_presets import LAYER_PRESETS
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.models import memory, unpinned
from ipadapter_demo.models.annotators import DETECTORS
from ipadapter_demo.models.few_step_files import SD15_LORAS, SDXL_LORAS
from ipadapter_demo.models.hub_files import (
    SD15_STRUCTURES,
    SDXL_STRUCTURES,
    VIT_BIGG,
    VIT_H,
)
from ipadapter_demo.models.layers import layer_factors
from ipadapter_demo.models.local_entry import local_entry
from ipadapter_demo.models.memory import best_dtype
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.models.sources import Hub, fetched, local_folder, megabytes_of
from ipadapter_demo.models.unpinned import CLIP_VIT_L, UNPINNED
from ipadapter_demo.pipeline import ImagePromptPipeline, load
from ipadapter_demo.request import GenerateRequest, Inpaint, Reference, Structure
from ipadapter_demo.ui.widgets.slots import structure_choices
from tests.faces import face_embeds, write_face_adapter
from tests.ldm_layout import write_checkpoint, write_sdxl_checkpoint
from tests.oracle import assert_same, loaded, pixels_of, reference, request, theirs
from tests.published import tiny_kl, tiny_sd15_unet, write_published, write_structure
from tests.shelf import models, offline, shelf
from tests.test_union import tiny_union
from tests.tiny import (
    CROSS_DIM,
    box_mask,
    picture,
    seeded,
    tiny_adapter,
    tiny_image_processor,
    tiny_sdxl_unet,
    tiny_text_encoder,
    tiny_vision_encoder,
)

__all__ = ["models", "offline", "shelf"]  # fixtures
ON_THE_SHELF = tuple(PUBLISHED)

REQUEST = GenerateRequest(
    prompt="a cube", references=(Reference(image=picture(1)),), steps=2, guidance=3.0
)


def drawn(pipeline: ImagePromptPipeline, request: GenerateRequest = REQUEST) -> np.ndarray:
    return np.asarray(pipeline.generate(request).images[0], dtype=int)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_entry_loads_from_the_published_layout_and_generates(name: str, shelf: Path) -> None:
    pipeline = load(name, device="cpu", dtype="float32", models_dir=shelf)
    asked = REQUEST
    if "faceid" in name:
        seen = picture(1) if "plus" in name else None
        asked = replace(REQUEST, references=(Reference(image=seen, embeds=face_embeds(1)),))
    result = pipeline.generate(asked)
    size = pipeline.info.native_size
    assert result.images[0].size == (size, size) == (128, 128)
    assert result.provenance["model"] == name
    assert any(PUBLISHED[name].adapter.files[0] in file for file in result.provenance["weights"])
    without = GenerateRequest(prompt="a cube", steps=2, guidance=3.0)
    assert np.abs(drawn(pipeline, asked) - drawn(pipeline, without)).max() > 0


ADAPTERS = {  # of the first authors, of ostris, and T2I-Adapter's
    "h94/IP-Adapter/models/ip-adapter_sd15.safetensors": VIT_H,
    "h94/IP-Adapter/models/ip-adapter_sd15_light.safetensors": VIT_H,
    "h94/IP-Adapter/models/ip-adapter_sd15_light_v11.bin": VIT_H,
    "h94/IP-Adapter/models/ip-adapter_sd15_vit-G.safetensors": VIT_BIGG,
    "h94/IP-Adapter/models/ip-adapter-plus_sd15.safetensors": VIT_H,
    "h94/IP-Adapter/models/ip-adapter-plus-face_sd15.safetensors": VIT_H,
    "h94/IP-Adapter/models/ip-adapter-full-face_sd15.safetensors": VIT_H,
    "h94/IP-Adapter/sdxl_models/ip-adapter_sdxl.safetensors": VIT_BIGG,
    "h94/IP-Adapter/sdxl_models/ip-adapter_sdxl_vit-h.safetensors": VIT_H,
    "h94/IP-Adapter/sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors": VIT_H,
    "h94/IP-Adapter/sdxl_models/ip-adapter-plus-face_sdxl_vit-h.safetensors": VIT_H,
    "TencentARC/T2I-Adapter/models/t2iadapter_style_sd14v1.pth": CLIP_VIT_L,
    "h94/IP-Adapter-FaceID/ip-adapter-faceid_sd15.bin": VIT_H,
    "h94/IP-Adapter-FaceID/ip-adapter-faceid-plus_sd15.bin": VIT_H,
    "h94/IP-Adapter-FaceID/ip-adapter-faceid-plusv2_sd15.bin": VIT_H,
    "h94/IP-Adapter-FaceID/ip-adapter-faceid-portrait_sd15.bin": VIT_H,
    "h94/IP-Adapter-FaceID/ip-adapter-faceid_sdxl.bin": VIT_H,
    "h94/IP-Adapter-FaceID/ip-adapter-faceid-plusv2_sdxl.bin": VIT_H,
    "ostris/ip-composition-adapter/ip_plus_composition_sd15.safetensors": VIT_H,
    "ostris/ip-composition-adapter/ip_plus_composition_sdxl.safetensors": VIT_H,
}


def test_every_published_adapter_is_in_the_catalogue_with_its_encoder() -> None:
    found = {f"{m.adapter.repo}/{m.adapter.paths[0]}": m.image_encoder for m in PUBLISHED.values()}
    assert found == ADAPTERS
    assert PUBLISHED["sdxl"].adapter.files == ("ip-adapter_sdxl_vit-h.safetensors",)
    assert PUBLISHED["sdxl-bigg"].adapter.files == ("ip-adapter_sdxl.safetensors",)
    assert megabytes_of(PUBLISHED["sdxl"].needed) < megabytes_of(PUBLISHED["sdxl-bigg"].needed)


def places() -> list[Hub]:
    structures = [
        s.folder for entries in (SD15_STRUCTURES, SDXL_STRUCTURES) for s in entries.values()
    ]
    detectors = [d.weights for d in DETECTORS.values()]
    loras = [lora.file for each in (SD15_LORAS, SDXL_LORAS) for lora in each.values()]
    return [place for place in (*structures, *detectors, *loras) if isinstance(place, Hub)] + [
        place for model in PUBLISHED.values() for place in model.needed
    ]


# no hash, and mostly no revision, of them is known here
UNPINNED_REPOSITORIES = {"TencentARC/T2I-Adapter", "h94/IP-Adapter-FaceID", CLIP_VIT_L.repo}


def test_what_is_not_checked_against_a_hash_is_said() -> None:
    """Who chooses such a model is told, and of each what it is for."""
    said = {name for name, model in PUBLISHED.items() if UNPINNED in model.note}
    assert said == {name for name, m in PUBLISHED.items() if not all(p.revision for p in m.needed)}
    assert said == {"sd15-style", *(name for name in PUBLISHED if "faceid" in name)}
    assert all(len(model.note) > 40 and model.note.endswith(".") for model in PUBLISHED.values())
    for structures in (unpinned.SD15_STRUCTURES, unpinned.SDXL_STRUCTURES):
        assert all(s.note and not s.folder.sha256 for s in structures.values())
    assert all("non-commercial" in PUBLISHED[n].licence for n in said if "faceid" in n)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("sd15", kind) for kind in unpinned.SD15_STRUCTURES),
        *(("sdxl", kind) for kind in ("openpose", "tile", "scribble", "union-tile", "union-depth")),
    ],
)
def test_the_further_structure_networks(tmp_path: Path, name: str, kind: str) -> None:
    """From the files as they are published; the picture names their hashes."""
    hub = PUBLISHED[name].structures[kind].folder
    assert isinstance(hub, Hub)
    write_published(tmp_path, name)
    unet = tiny_sdxl_unet() if name == "sdxl" else tiny_sd15_unet()
    if len(hub.files) == 1:
        folder = tmp_path / hub.repo / hub.folder
        folder.mkdir(parents=True)
        if "union" in kind:
            state = {
                key: t.contiguous() for key, t in tiny_union(8, (8, 8, 12, 16)).state_dict().items()
            }
            save_file(state, folder / hub.files[0])
        else:
            with seeded(6):
                net = T2IAdapter(
                    in_channels=1,
                    channels=list(unet.config.block_out_channels),
                    num_res_blocks=1,
                    downscale_factor=8,
                    adapter_type="full_adapter",
                )
            torch.save(net.state_dict(), folder / hub.files[0])
    else:
        write_structure(tmp_path, hub, unet, PUBLISHED[name].structures[kind].network)
    pipeline = load(name, device="cpu", dtype="float32", models_dir=tmp_path)
    asked = GenerateRequest(steps=1, structures=(Structure(kind=kind, image=picture(3)),))
    if kind == "inpaint":
        with pytest.raises(RequestError, match="structure inpaint reads a mask, so it needs inp"):
            pipeline.generate(asked)
        hole = Inpaint(image=picture(3), mask=box_mask((16, 16, 48, 48)))
        asked = replace(asked, inpaint=hole)
    result = pipeline.generate(asked)
    without = pipeline.generate(replace(asked, structures=()))
    assert np.abs(np.subtract(*(np.asarray(r.images[0], int) for r in (result, without)))).max() > 0
    assert any(key.startswith(f"structure/{kind}/") for key in result.provenance["weights"])
    assert not any("structure/" in key for key in without.provenance["weights"])
    [label] = [
        label for label, value in structure_choices(pipeline.info) if value == f"{kind}/none"
    ]
    assert PUBLISHED[name].structures[kind].note in label


def test_every_repository_is_pinned_to_a_commit_and_hashes_are_of_its_files() -> None:
    for place in places():
        if place.revision or place.repo not in UNPINNED_REPOSITORIES:
            assert re.fullmatch(r"[0-9a-f]{40}", place.revision or ""), place
        assert set(place.sha256) <= set(place.files), place
        assert all(re.fullmatch(r"[0-9a-f]{64}", known) for known in place.sha256.values()), place
    known = [h for place in set(places()) for h in place.sha256.values()]
    assert len(set(known)) == len(set(places_with_hashes()))


def places_with_hashes() -> list[tuple[str, str]]:
    return [
        (place.repo, path)
        for place in places()
        for file, path in zip(place.files, place.paths, strict=True)
        if file in place.sha256
    ]


def test_sdxl_s_openpose_t2i_adapter_is_in_single_precision(models: Path) -> None:
    """Its repository has no fp16 file."""
    hub = PUBLISHED["sdxl"].structures["t2i-openpose"].folder
    assert isinstance(hub, Hub)
    assert hub.files == ("config.json", "diffusion_pytorch_model.safetensors")
    assert hub.megabytes == 316
    write_structure(models, hub, tiny_sdxl_unet(), "t2i-adapter")
    pipeline = load("sdxl", device="cpu", dtype="float32", models_dir=models)
    asked = GenerateRequest(steps=1, structures=(Structure(kind="t2i-openpose", image=picture(3)),))
    assert np.abs(drawn(pipeline, asked) - drawn(pipeline, GenerateRequest(steps=1))).max() > 0


@pytest.mark.parametrize(
    "name", ["sd15", "sd15-light-v11", "sd15-vit-g", "sd15-full-face", "sd15-composition"]
)
def test_pictures_are_diffusers_own(
    shelf: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, entry = PUBLISHED[name], local_entry(PUBLISHED[name], LoadOptions(models_dir=shelf))
    encoder = CLIPVisionModelWithProjection.from_pretrained(
        shelf / model.image_encoder.repo / model.image_encoder.folder
    )
    oracle = loaded(
        StableDiffusionPipeline, entry, variant="fp16", dtype=torch.float32, image_encoder=encoder
    )
    oracle.load_ip_adapter(
        str(shelf / model.adapter.repo),
        subfolder=model.adapter.folder,
        weight_name=model.adapter.files[0],
        image_encoder_folder=None,
    )
    oracle.set_ip_adapter_scale(0.7)
    own = reference()
    # the folder's own processor is of full size, the tiny encoder's is not
    oracle.feature_extractor = tiny_image_processor()
    expected = theirs(oracle, entry, ip_adapter_image=own.image)
    pipeline = load(name, device="cpu", dtype="float32", models_dir=shelf)
    ours = pixels_of(pipeline, monkeypatch)(request(references=(own,), image_scale=0.7))
    assert_same(ours, expected, 1e-4)


def test_the_full_adapter_with_weights_maps_and_an_average(shelf: Path) -> None:
    """Its number of tokens is its encoder's: nothing may count on the number in a file."""
    pipeline = load("sd15-full-face", device="cpu", dtype="float32", models_dir=shelf)
    two = tuple(
        Reference(image=picture(seed), weight=weight) for seed, weight in ((1, 1.0), (2, 0.5))
    )
    both = replace(REQUEST, references=two)
    even = replace(REQUEST, references=tuple(replace(r, weight=1.0) for r in two))
    assert np.abs(drawn(pipeline, both) - drawn(pipeline, even)).max() > 0
    assert drawn(pipeline, replace(both, combine="average")).shape == (128, 128, 3)
    *_, result = pipeline.stream(both, record_attention=True)
    assert [len(maps) for maps in result.attention_maps] == [2]


class TestOwnAdapters:
    """Beside a published base: files as people have them."""

    def folder(self, tmp_path: Path, encoder: str) -> Path:
        folder = tmp_path / "ip_adapter_mine"
        save_image_adapter(tiny_adapter(tiny_sdxl_unet()), folder / "ip_adapter.bin")
        (folder / "image_encoder.txt").write_text(encoder)
        return folder

    def test_invokeai_s_folder_brings_its_encoder(self, shelf: Path, tmp_path: Path) -> None:
        folder = self.folder(tmp_path, "InvokeAI/ip_adapter_sdxl_image_encoder\n")
        entry = local_entry(PUBLISHED["sdxl"], LoadOptions(models_dir=shelf, model_adapter=folder))
        assert entry.image_encoder == str(shelf / VIT_BIGG.repo / VIT_BIGG.folder)
        pipeline = load(
            "sdxl", device="cpu", dtype="float32", models_dir=shelf, model_adapter=folder
        )
        result = pipeline.generate(REQUEST)
        assert pipeline.info.adapters == ("ip_adapter_mine",)
        assert any(
            file.endswith("ip_adapter_mine/ip_adapter.bin") for file in result.provenance["weights"]
        )

    @pytest.mark.parametrize(
        ("name", "projection", "encoder"),
        [
            ("sdxl", LinearProjection(1280, CROSS_DIM), VIT_BIGG),
            ("sdxl-bigg", LinearProjection(1024, CROSS_DIM), VIT_H),
            ("sdxl-bigg", Resampler(1280, CROSS_DIM, depth=1), VIT_H),
            ("sd15-vit-g", MLPProjection(1280, CROSS_DIM), VIT_H),
            (
                "sdxl-bigg",
                LinearProjection(20, CROSS_DIM),
                VIT_BIGG,
            ),  # of an unknown width: as it was
        ],
    )
    def test_the_width_of_an_adapter_tells_its_encoder(
        self,
        shelf: Path,
        tmp_path: Path,
        name: str,
        projection: Projection,
        encoder: Hub,
    ) -> None:
        """So a file of the first authors works under any model of its family."""
        save_image_adapter(ImageAdapter(projection, [16]), tmp_path / "mine.safetensors")
        entry = local_entry(
            PUBLISHED[name],
            LoadOptions(models_dir=shelf, model_adapter=tmp_path / "mine.safetensors"),
        )
        assert entry.image_encoder == str(shelf / encoder.repo / encoder.folder)

    def test_an_encoder_that_is_not_at_hand_is_asked_for(self, shelf: Path, tmp_path: Path) -> None:
        folder = self.folder(tmp_path, "someone/their_encoder")
        with pytest.raises(ModelError, match=r"missing: config\.json, .* of someone/their_encoder"):
            load("sdxl", device="cpu", dtype="float32", models_dir=shelf, model_adapter=folder)

    def test_a_trainer_s_raw_state_draws_as_its_adapter(self, shelf: Path, tmp_path: Path) -> None:
        published = shelf / "h94/IP-Adapter/models/ip-adapter_sd15.safetensors"
        names = {"image_proj": "image_proj_model", "ip_adapter": "adapter_modules"}
        state = {
            f"{names[section]}.{rest}": tensor
            for key, tensor in load_file(published).items()
            for section, _, rest in [key.partition(".")]
        }
        unet = {f"unet.{key}": t for key, t in tiny_sd15_unet().state_dict().items()}
        torch.save(unet | state, tmp_path / "pytorch_model.bin")
        mine = load(
            "sd15",
            device="cpu",
            dtype="float32",
            models_dir=shelf,
            model_adapter=tmp_path / "pytorch_model.bin",
        )
        theirs = load("sd15", device="cpu", dtype="float32", models_dir=shelf)
        assert np.array_equal(drawn(mine), drawn(theirs))

    @pytest.mark.parametrize("file", ["ip-adapter-faceid_sd15.bin", "faceid-plusv2.safetensors"])
    def test_a_face_id_file_brings_its_lora(self, shelf: Path, tmp_path: Path, file: str) -> None:
        path = write_face_adapter(tmp_path, tiny_sd15_unet(), file)
        pipeline = load("sd15", device="cpu", dtype="float32", models_dir=shelf, model_adapter=path)
        assert pipeline.info.face_adapters == (path.stem,)
        face = Reference(image=picture(1) if "plus" in file else None, embeds=face_embeds(1))
        plain = drawn(pipeline, replace(REQUEST, references=()))
        faced = drawn(pipeline, replace(REQUEST, references=(face,)))
        assert np.abs(faced - plain).max() > 0
        assert np.array_equal(drawn(pipeline, replace(REQUEST, references=())), plain)

    def test_what_is_no_adapter_is_named(self, shelf: Path, tmp_path: Path, lora: Path) -> None:
        with pytest.raises(CheckpointError, match=r"style\.safetensors: this is a LoRA, not an IP"):
            load("sd15", device="cpu", dtype="float32", models_dir=shelf, model_adapter=lora)


@pytest.mark.parametrize("preset", ["style", "layout", "strong style", "precise style"])
def test_layer_presets_are_known_for_sd15(shelf: Path, preset: Any) -> None:
    pipeline = load("sd15", device="cpu", dtype="float32", models_dir=shelf)
    some = drawn(pipeline, replace(REQUEST, image_layers=preset))
    assert np.abs(some - drawn(pipeline)).max() > 0
    assert np.abs(some - drawn(pipeline, replace(REQUEST, image_scale=0.0))).max() > 0


@pytest.mark.parametrize(
    ("config", "layers", "style", "layout"),
    [(SD15_UNET, 16, 3, 3), (SDXL_UNET, 70, 10, 10)],
    ids=["sd15", "sdxl"],
)
def test_layer_presets_on_the_full_architectures(
    config: dict, layers: int, style: int, layout: int
) -> None:
    """As many layers as the published adapters have, and of SDXL one transformer of ten each."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    factors = {preset: layer_factors(preset, unet, "full") for preset in LAYER_PRESETS}
    assert factors.pop("all") is None
    assert {len(found) for found in factors.values()} == {layers}
    three = ("style", "layout", "style+layout")
    assert {preset: sum(factors[preset]) for preset in three} == {
        "style": style,
        "layout": layout,
        "style+layout": style + layout,
    }


def test_structure_networks_are_read_when_they_are_asked_for(models: Path) -> None:
    entries = PUBLISHED["sd15"].structures
    pipeline = load("sd15", device="cpu", dtype="float32", models_dir=models)
    for kind in ("canny", "palette"):
        asked = GenerateRequest(steps=1, structures=(Structure(kind=kind, image=picture(3)),))
        hub = entries[kind].folder
        assert isinstance(hub, Hub)
        with pytest.raises(ModelError, match=rf"missing \(\d+ MB\): config.json, .* of {hub.repo}"):
            pipeline.generate(asked)
        write_structure(models, hub, tiny_sd15_unet(), entries[kind].network)
        assert pipeline.generate(asked).images  # the running model stayed usable


def test_a_missing_model_says_what_is_missing_and_where_it_would_go(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refused:
        load("sd15", device="cpu", models_dir=tmp_path)
    said = str(refused.value)
    assert "missing (2,133 MB): model_index.json, scheduler/scheduler_config.json" in said
    assert f"Put them below {tmp_path}/stable-diffusion-v1-5/stable-diffusion-v1-5" in said
    assert f"--models-dir {tmp_path}" in said


def test_another_base_of_the_family(models: Path, tmp_path: Path) -> None:
    base = models / PUBLISHED["sd15"].base.repo
    elsewhere = tmp_path / "community"
    shutil.copytree(base, elsewhere)
    tensors = load_file(next((elsewhere / "unet").glob("*.safetensors")))
    save_file(
        {k: 1.1 * t for k, t in tensors.items()},
        next((elsewhere / "unet").glob("*.safetensors")),
        metadata={"format": "pt"},
    )
    ours = load("sd15", device="cpu", dtype="float32", models_dir=models, base=str(elsewhere))
    theirs = load("sd15", device="cpu", dtype="float32", models_dir=models)
    assert np.abs(drawn(ours) - drawn(theirs)).max() > 0
    shutil.copytree(elsewhere, models / "someone" / "community")  # as a repository, plain names
    for path in (models / "someone" / "community").rglob("*.fp16.safetensors"):
        path.rename(path.with_name(path.name.replace(".fp16.", ".")))
    named = load("sd15", device="cpu", dtype="float32", models_dir=models, base="someone/community")
    assert np.array_equal(drawn(named), drawn(ours))


def test_a_single_checkpoint_file_as_a_base(shelf: Path, tmp_path: Path) -> None:
    """Weights under the names of the first code; the rest comes from the family's base."""
    path = tmp_path / "community.safetensors"
    write_checkpoint(path, tiny_sd15_unet(), tiny_kl(), tiny_text_encoder())
    ours = load("sd15", device="cpu", dtype="float32", models_dir=shelf, base=str(path))
    theirs = load("sd15", device="cpu", dtype="float32", models_dir=shelf)
    assert np.array_equal(drawn(ours), drawn(theirs))
    assert any("community" in file for file in ours.provenance["weights"])


def test_a_single_sdxl_checkpoint_file(shelf: Path, tmp_path: Path) -> None:
    path = tmp_path / "community-xl.safetensors"
    write_sdxl_checkpoint(path)
    ours = load("sdxl", device="cpu", dtype="float32", models_dir=shelf, base=str(path))
    theirs = load("sdxl", device="cpu", dtype="float32", models_dir=shelf)
    assert np.array_equal(drawn(ours), drawn(theirs))


def test_a_t2i_adapter_on_sd15_s_own_topology(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = PUBLISHED["sd15"].structures["palette"].folder
    assert isinstance(hub, Hub)
    write_structure(models, hub, tiny_sd15_unet(), "t2i-adapter")
    entry = local_entry(PUBLISHED["sd15"], LoadOptions(models_dir=models))
    net = T2IAdapter.from_pretrained(models / hub.repo, dtype=torch.float32)
    oracle = loaded(
        StableDiffusionAdapterPipeline, entry, adapter=net, variant="fp16", dtype=torch.float32
    )
    latents = theirs(
        oracle,
        entry,
        image=picture(5, 128, 128),
        adapter_conditioning_scale=0.9,
        output_type="latent",
    )
    expected = oracle.vae.decode(latents / oracle.vae.config.scaling_factor).sample
    ours = pixels_of(load("sd15", device="cpu", dtype="float32", models_dir=models), monkeypatch)
    structure = Structure(kind="palette", image=picture(5, 128, 128), weight=0.9)
    assert_same(ours(request(structures=(structure,))), (expected / 2 + 0.5).clamp(0, 1), 1e-4)


@pytest.fixture(scope="module")
def lora(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA for the tiny SD 1.5, as diffusers' own training script writes one."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = tiny_sd15_unet()
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    folder = tmp_path_factory.mktemp("lora")
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=get_peft_model_state_dict(unet), weight_name="style.safetensors"
    )
    return folder / "style.safetensors"


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_a_lora_is_what_diffusers_makes_of_it(
    shelf: Path, lora: Path, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = local_entry(PUBLISHED["sd15"], LoadOptions(models_dir=shelf))
    oracle = loaded(StableDiffusionPipeline, entry, variant="fp16", dtype=torch.float32)
    plain = pixels_of(load("sd15", device="cpu", dtype="float32", models_dir=shelf), monkeypatch)(
        request()
    )
    oracle.load_lora_weights(str(lora.parent), weight_name=lora.name)
    expected = theirs(oracle, entry, cross_attention_kwargs={"scale": weight})
    ours = pixels_of(
        load("sd15", device="cpu", dtype="float32", models_dir=shelf, loras=((lora, weight),)),
        monkeypatch,
    )
    assert_same(ours(request()), expected, 1e-4)
    assert not torch.allclose(expected, plain, atol=1e-3)


def test_a_textual_inversion_is_called_by_the_name_of_its_file(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "zorb.safetensors"
    save_file({"zorb": torch.randn(2, CROSS_DIM)}, path)  # two vectors: two tokens
    entry = local_entry(PUBLISHED["sd15"], LoadOptions(models_dir=shelf))
    oracle = loaded(StableDiffusionPipeline, entry, variant="fp16", dtype=torch.float32)
    oracle.load_textual_inversion(str(path), token="zorb")
    expected = theirs(oracle, entry, prompt="a zorb")
    pipeline = load("sd15", device="cpu", dtype="float32", models_dir=shelf, embeddings=(path,))
    ours = pixels_of(pipeline, monkeypatch)
    assert_same(ours(request(prompt="a zorb")), expected, 1e-4)
    assert not torch.allclose(ours(request(prompt="a cube")), expected, atol=1e-4)


def test_networks_that_take_turns_draw_the_same(shelf: Path) -> None:
    """Moving weights away and back changes nothing; on this machine they have nowhere to go."""
    inturns = load("sd15", device="cpu", dtype="float32", models_dir=shelf, offload=True)
    assert np.array_equal(
        drawn(inturns), drawn(load("sd15", device="cpu", dtype="float32", models_dir=shelf))
    )


def test_precision_follows_the_hardware_and_the_size_of_the_model(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert best_dtype("cuda:1", small=False) == torch.float16
    assert best_dtype("cpu", small=True) == best_dtype("mps", small=False) == torch.float32
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(memory, "has_bfloat16", lambda device, has=has: has)
        assert best_dtype("cpu", small=False) == expected
        assert load("sd15", device="cpu", models_dir=shelf)._model.dtype == expected


def test_bfloat16_is_taken_by_measure_and_not_by_name() -> None:
    """oneDNN limited to AVX2, as on a CPU without it: there it is emulated."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from ipadapter_demo.models.memory import has_bfloat16; print(has_bfloat16('cpu'))",
        ],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "False"


def test_decoding_in_parts(shelf: Path) -> None:
    tiled = load("sd15", device="cpu", dtype="float32", models_dir=shelf, tiling=True)
    assert tiled._model.vae.autoencoder.use_tiling
    assert drawn(tiled).shape == (128, 128, 3)


class TestWrongFiles:
    def test_an_sdxl_adapter_on_sd15(self, models: Path) -> None:
        wrong = models / "h94/IP-Adapter/sdxl_models/ip-adapter_sdxl.safetensors"
        shutil.copy(wrong, models / "h94/IP-Adapter/models/ip-adapter_sd15.safetensors")
        with pytest.raises(
            CheckpointError,
            match=r"ip-adapter_sd15\.safetensors does not fit "
            r"this base model: the adapter has .* layers",
        ):
            load("sd15", device="cpu", models_dir=models)

    def test_an_sdxl_base_under_sd15(self, models: Path) -> None:
        with pytest.raises(CheckpointError, match="does not fit this base model"):
            load(
                "sd15",
                device="cpu",
                models_dir=models,
                base=str(models / PUBLISHED["sdxl"].base.repo),
            )

    def test_the_wrong_encoder(self, models: Path) -> None:
        tiny_vision_encoder(projection_dim=28).save_pretrained(
            models / "h94/IP-Adapter/models/image_encoder"
        )
        with pytest.raises(CheckpointError, match="does not fit this image encoder: it reads 20"):
            load("sd15", device="cpu", models_dir=models)

    def test_a_file_cut_short(self, models: Path) -> None:
        path = models / "h94/IP-Adapter/models/ip-adapter_sd15.safetensors"
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(CheckpointError, match=r"ip-adapter_sd15\.safetensors"):
            load("sd15", device="cpu", models_dir=models)

    def test_a_pickle_with_code_is_not_run(self, models: Path, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return (Path.touch, (tmp_path / "ran",))

        hub = PUBLISHED["sd15"].structures["palette"].folder
        assert isinstance(hub, Hub)
        write_structure(models, hub, tiny_sd15_unet(), "t2i-adapter")
        torch.save(Evil(), models / hub.repo / hub.files[-1])
        pipeline = load("sd15", device="cpu", dtype="float32", models_dir=models)
        with pytest.raises(ModelError, match="cannot be loaded"):
            pipeline.generate(
                GenerateRequest(steps=1, structures=(Structure(kind="palette", image=picture(3)),))
            )
        assert not (tmp_path / "ran").exists()
        assert pipeline.generate(REQUEST).images

    def test_a_base_that_is_no_safetensors_file(self, models: Path, tmp_path: Path) -> None:
        path = tmp_path / "community.ckpt"
        torch.save({"a": torch.ones(1)}, path)
        with pytest.raises(ModelError, match=r"community\.ckpt must be a \.safetensors file"):
            load("sd15", device="cpu", models_dir=models, base=str(path))

    def test_a_checkpoint_of_something_else(self, models: Path, tmp_path: Path) -> None:
        path = tmp_path / "community.safetensors"
        save_file({"a": torch.ones(1)}, path)
        with pytest.raises(ModelError, match=r"community\.safetensors cannot be read as a check"):
            load("sd15", device="cpu", models_dir=models, base=str(path))

    def test_a_lora_of_another_model(self, shelf: Path, lora: Path, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"style\.safetensors does not fit this model"):
            load("sdxl", device="cpu", models_dir=shelf, loras=((lora, 1.0),))
        with pytest.raises(ModelError, match=r"nowhere\.safetensors: no such file"):
            load(
                "sd15",
                device="cpu",
                models_dir=shelf,
                loras=((tmp_path / "nowhere.safetensors", 1),),
            )
        (tmp_path / "style.pt").touch()
        with pytest.raises(ModelError, match=r"style\.pt must be a \.safetensors file"):
            load("sd15", device="cpu", models_dir=shelf, loras=((tmp_path / "style.pt", 1.0),))

    def test_a_base_goes_with_published_models_only(self) -> None:
        with pytest.raises(ModelError, match="base goes with a published model, not with tabletop"):
            load("tabletop", base="elsewhere")


def test_a_local_folder_mirrors_the_hub(tmp_path: Path) -> None:
    hub = Hub(repo="someone/something", files=("a.json", "b/c.bin"), folder="part")
    for root in (tmp_path / "someone" / "something", tmp_path / "someone--something"):
        assert local_folder(hub, tmp_path) is None
        (root / "part" / "b").mkdir(parents=True)
        (root / "part" / "a.json").touch()
        assert local_folder(hub, tmp_path) is None
        (root / "part" / "b" / "c.bin").touch()
        assert local_folder(hub, tmp_path) == fetched(hub, tmp_path) == root / "part"
        shutil.rmtree(root)
