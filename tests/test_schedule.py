"""Models that predict v, up to zero terminal SNR: found in files of any layout, drawn as diffusers'
own pipelines draw them on the very same weights."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UniPCMultistepScheduler,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from ipadapter_demo.cli import main
from ipadapter_demo.errors import ModelError, RequestError
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.local_entry import local_entry
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.models.schedule import saying, settled
from ipadapter_demo.pipeline import ImagePromptPipeline, load
from ipadapter_demo.pipeline.samplers import NOT_FROM_ZERO_SNR
from ipadapter_demo.request import SAMPLERS, Inpaint, Sampler
from ipadapter_demo.settings import load_options, settings_from_args, without_additions
from ipadapter_demo.training.noise import Diffusion
from tests.ldm_layout import write_checkpoint, write_sdxl_checkpoint
from tests.oracle import ALIGNED, assert_same, loaded, pixels_of, reference, request, theirs
from tests.published import tiny_kl, tiny_sd15_unet
from tests.shelf import shelf
from tests.tiny import (
    picture,
    tiny_text_encoder,
    write_tiny_model,
)

__all__ = ["shelf"]  # fixtures
ON_THE_SHELF = ("sdxl", "sd15")

ZERO_SNR: dict[str, Any] = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
# of Playground v2.5, CosXL, and models trained by flow matching
OTHER_NOISE_LEVELS: tuple[Any, ...] = (
    EDMDPMSolverMultistepScheduler(),
    EDMEulerScheduler(sigma_max=120.0, sigma_data=1.0, prediction_type="v_prediction"),
    EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction"),
    FlowMatchEulerDiscreteScheduler(),
    UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
)
ABLE: tuple[Sampler, ...] = tuple(name for name in SAMPLERS if name not in NOT_FROM_ZERO_SNR)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SDXL checkpoint that says nothing of itself."""
    path = tmp_path_factory.mktemp("files") / "plain.safetensors"
    write_sdxl_checkpoint(path)
    return path


def with_keys(path: Path, plain: Path, *keys: str, value: Tensor | None = None) -> Path:
    marks = {key: torch.empty(0) if value is None else value.clone() for key in keys}
    save_file(load_file(plain) | marks, path)
    return path


def sdxl(shelf: Path, base: Path | None = None, **options: Any) -> Any:
    return load(
        "sdxl", device="cpu", dtype="float32", models_dir=shelf, base=base and str(base), **options
    )


def oracle_of(shelf: Path, **schedule: Any) -> tuple[Any, CatalogEntry]:
    entry = local_entry(PUBLISHED["sdxl"], LoadOptions(models_dir=shelf))
    pipeline = loaded(StableDiffusionXLPipeline, entry, variant="fp16", dtype=torch.float32)
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, clip_sample=False, **schedule
    )
    return pipeline, entry


def drawn(pipeline: Any, **changes: Any) -> np.ndarray:
    return np.stack([np.asarray(image) for image in pipeline.generate(request(**changes)).images])


@pytest.mark.parametrize("value", [None, torch.tensor(1.0)], ids=["empty", "scalar"])
@pytest.mark.parametrize("sampler", ABLE)
def test_a_marked_checkpoint(
    shelf: Path,
    plain: Path,
    sampler: Sampler,
    value: Tensor | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = with_keys(tmp_path / "noob.safetensors", plain, "v_pred", "ztsnr", value=value)
    pipeline = sdxl(shelf, path)
    oracle, entry = oracle_of(shelf, **ZERO_SNR)
    expected = theirs(oracle, entry, sampler, guidance_rescale=0.7)
    asked = request(sampler=sampler, guidance_rescale=0.7)
    assert_same(pixels_of(pipeline, monkeypatch)(asked), expected)
    assert ZERO_SNR.items() <= pipeline.provenance["scheduler"].items()
    assert "It predicts v and was trained up to zero terminal SNR" in pipeline.info.note


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_marked_as_v_alone(
    shelf: Path, plain: Path, sampler: Sampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = sdxl(shelf, with_keys(tmp_path / "v.safetensors", plain, "v_pred"))
    oracle, entry = oracle_of(shelf, prediction_type="v_prediction")
    expected = theirs(oracle, entry, sampler)
    assert_same(pixels_of(pipeline, monkeypatch)(request(sampler=sampler)), expected)
    assert pipeline.info.note.endswith("It predicts v.")


def with_header(path: Path, plain: Path, said: str, *keys: str) -> Path:
    """As Stability AI's Model Metadata Standard has it."""
    marks = {key: torch.empty(0) for key in keys}
    save_file(
        load_file(plain) | marks,
        path,
        metadata={"modelspec.sai_model_spec": "1.0.0", "modelspec.prediction_type": said},
    )
    return path


@pytest.mark.parametrize("said", ["v", "v_prediction"])
def test_a_header_that_says_v(
    shelf: Path, plain: Path, tmp_path: Path, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = sdxl(shelf, with_header(tmp_path / "v.safetensors", plain, said))
    oracle, entry = oracle_of(shelf, prediction_type="v_prediction")
    assert_same(
        pixels_of(pipeline, monkeypatch)(request(sampler="ddim")), theirs(oracle, entry, "ddim")
    )
    assert pipeline.info.note.endswith("It predicts v.")


def test_a_header_that_says_epsilon(shelf: Path, plain: Path, tmp_path: Path) -> None:
    """Whatever the folder with the configurations says."""
    configs = tmp_path / "hub"
    shutil.copytree(shelf, configs)
    config = configs / PUBLISHED["sdxl"].base.repo / "scheduler" / "scheduler_config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"prediction_type": "v_prediction"})
    )
    said = with_header(tmp_path / "e.safetensors", plain, "epsilon")
    assert sdxl(configs, said).provenance["scheduler"]["prediction_type"] == "epsilon"
    other = with_header(tmp_path / "o.safetensors", plain, "rectified flow")  # no word of SD's
    assert sdxl(configs, other).provenance["scheduler"]["prediction_type"] == "v_prediction"


def test_keys_and_header_that_contradict_each_other(
    shelf: Path, plain: Path, tmp_path: Path
) -> None:
    path = with_header(tmp_path / "both.safetensors", plain, "epsilon", "v_pred")
    with pytest.raises(
        ModelError,
        match=r"both\.safetensors .*its key 'v_pred' says that it "
        r"predicts v, and its header's modelspec\.prediction_type is 'epsilon': say "
        "which with --prediction-type",
    ):
        sdxl(shelf, path)
    for decided in ("epsilon", "v_prediction"):
        model = sdxl(shelf, path, prediction_type=decided)
        assert model.provenance["scheduler"]["prediction_type"] == decided
    agreed = with_header(tmp_path / "same.safetensors", plain, "v", "v_pred", "ztsnr")
    assert ZERO_SNR.items() <= sdxl(shelf, agreed).provenance["scheduler"].items()


def test_what_a_file_does_not_say_an_operator_does(
    shelf: Path, plain: Path, tmp_path: Path
) -> None:
    marked = drawn(sdxl(shelf, with_keys(tmp_path / "noob.safetensors", plain, "v_pred", "ztsnr")))
    told = sdxl(shelf, plain, prediction_type="v_prediction", zero_snr=True)
    assert np.array_equal(drawn(told), marked)
    silent = sdxl(shelf, plain)
    assert not np.array_equal(drawn(silent), marked)
    assert "predicts" not in silent.info.note


def test_an_sd15_checkpoint_whose_configuration_lacks_the_field(
    shelf: Path, tmp_path: Path
) -> None:
    """As the published one does: what diffusers fills in must not win over what is said."""
    models = tmp_path / "hub"
    shutil.copytree(shelf, models)
    path = models / PUBLISHED["sd15"].base.repo / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    for name in ("prediction_type", "timestep_spacing"):
        del config[name]
    path.write_text(json.dumps(config))
    file = tmp_path / "v.safetensors"
    write_checkpoint(file, tiny_sd15_unet(), tiny_kl(), tiny_text_encoder())
    common: dict[str, Any] = {"models_dir": models, "base": str(file)}
    silent = load("sd15", device="cpu", dtype="float32", **common)
    told = load("sd15", device="cpu", dtype="float32", **common, prediction_type="v_prediction")
    assert not np.array_equal(drawn(silent), drawn(told))
    save_file(load_file(file) | {"v_pred": torch.empty(0)}, file)
    assert np.array_equal(drawn(load("sd15", device="cpu", dtype="float32", **common)), drawn(told))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> CatalogEntry:
    """Its configuration says zero SNR and, as many do, the spacing of its family."""
    entry = write_tiny_model(tmp_path_factory.mktemp("models") / "zero")
    path = entry.folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text()) | ZERO_SNR | {"timestep_spacing": "leading"}
    path.write_text(json.dumps(config))
    return replace(entry, inpaint_adapter=None)


def with_trailing_steps(pipeline: Any) -> Any:
    config = pipeline.scheduler.config
    pipeline.scheduler = type(pipeline.scheduler).from_config(config, timestep_spacing="trailing")
    return pipeline


@pytest.fixture(scope="module")
def of_folder(folder: CatalogEntry) -> Callable[[], ImagePromptPipeline]:
    """Pipelines of its model, each with caches of its own."""
    model = load(folder)._model
    return lambda: ImagePromptPipeline(model)


@pytest.mark.parametrize("sampler", ABLE)
class TestFolder:
    def test_image(
        self,
        folder: CatalogEntry,
        of_folder: Any,
        sampler: Sampler,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        oracle = with_trailing_steps(loaded(StableDiffusionPipeline, folder))
        expected = theirs(oracle, folder, sampler, scale=0.7, ip_adapter_image=reference().image)
        asked = request(sampler=sampler, references=(reference(),), image_scale=0.7)
        assert_same(pixels_of(of_folder(), monkeypatch)(asked), expected)

    def test_start_picture(
        self,
        folder: CatalogEntry,
        of_folder: Any,
        sampler: Sampler,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        oracle = with_trailing_steps(loaded(StableDiffusionImg2ImgPipeline, folder))
        expected = theirs(oracle, folder, sampler, image=picture(4), strength=0.6)
        asked = request(sampler=sampler, init_image=picture(4), strength=0.6)
        assert_same(pixels_of(of_folder(), monkeypatch)(asked), expected)

    @pytest.mark.parametrize("repaint_passes", [1, 3])
    def test_nothing_is_divided_by_a_signal_of_zero(
        self, of_folder: Any, sampler: Sampler, repaint_passes: int
    ) -> None:
        """Neither in previews nor where a step is taken again: NaN would decode to black."""
        pipeline = of_folder()
        asked = request(
            sampler=sampler,
            inpaint=Inpaint(
                image=picture(4), mask=ALIGNED, repaint_passes=repaint_passes, feather=0
            ),
            steps=5,
        )
        *previews, result = pipeline.stream(asked, preview_every=1)
        for event in [*previews[:-1], result]:
            assert np.asarray(event.images[0]).std() > 1
            assert np.asarray(event.images[0].crop((20, 12, 44, 36))).std() > 1

    def test_the_first_preview_is_what_v_says(self, of_folder: Any, sampler: Sampler) -> None:
        """Where there is no signal yet, the clean latents are -v, the same for every sampler."""
        pipeline, other = of_folder(), of_folder()
        first = next(iter(pipeline.stream(request(sampler=sampler), preview_every=1)))
        expected = next(iter(other.stream(request(sampler="ddim"), preview_every=1)))
        for one, another in zip(first.images, expected.images, strict=True):
            off = np.asarray(one, np.int16) - np.asarray(another, np.int16)
            assert np.abs(off).max() <= 1


@pytest.mark.parametrize("sampler", NOT_FROM_ZERO_SNR)
def test_some_samplers_cannot_draw_it(of_folder: Any, sampler: Sampler) -> None:
    message = f"sampler must be one of {', '.join(ABLE)} for a model with zero terminal SNR, got"
    with pytest.raises(RequestError, match=f"{re.escape(message)} '{sampler}'"):
        of_folder().generate(request(sampler=sampler))


def test_its_steps_begin_at_pure_noise(of_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = pixels_of(of_folder(), monkeypatch)
    assert_same(ours(request(noise_schedule="trailing")), ours(request()), 0)
    with pytest.raises(RequestError, match="noise_schedule must not be leading for a model with"):
        ours(request(noise_schedule="leading"))


class TestRefused:
    def test_zero_snr_with_epsilon(self, shelf: Path, plain: Path, tmp_path: Path) -> None:
        message = "prediction_type must be v_prediction for a model with zero terminal SNR, got"
        with pytest.raises(ModelError, match=message):
            sdxl(shelf, zero_snr=True)
        with pytest.raises(ModelError, match=message):
            sdxl(shelf, with_keys(tmp_path / "half.safetensors", plain, "ztsnr"))
        marked = with_keys(tmp_path / "noob.safetensors", plain, "v_pred", "ztsnr")
        with pytest.raises(ModelError, match=message):
            sdxl(shelf, marked, prediction_type="epsilon")

    @pytest.mark.parametrize("key", ["edm_mean", "edm_vpred.sigma_max"])
    def test_other_noise_levels(self, shelf: Path, plain: Path, key: str, tmp_path: Path) -> None:
        path = with_keys(tmp_path / "edm.safetensors", plain, key, value=torch.ones(4))
        with pytest.raises(ModelError, match=rf"edm\.safetensors.*marked '{key}'.* are not read"):
            sdxl(shelf, path)

    @pytest.mark.parametrize("scheduler", OTHER_NOISE_LEVELS, ids=lambda made: type(made).__name__)
    def test_a_folder_over_other_noise_levels(self, scheduler: Any, tmp_path: Path) -> None:
        entry = write_tiny_model(tmp_path / "model")
        scheduler.save_pretrained(entry.folder / "scheduler")
        with pytest.raises(ModelError, match=f"names {type(scheduler).__name__}.*are not read"):
            load(entry)


def test_a_default_that_is_overruled_is_no_default_any_more() -> None:
    config = {"prediction_type": "epsilon", "_use_default_values": ["prediction_type", "steps"]}
    told = saying(config, {"prediction_type": "v_prediction"})
    assert told == {"prediction_type": "v_prediction", "_use_default_values": ["steps"]}
    made = EulerDiscreteScheduler.from_config(settled(config, "v_prediction", zero_snr=True))
    assert ZERO_SNR.items() <= made.config.items()


def test_training_takes_the_same_noise_levels() -> None:
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    ours = Diffusion(config | ZERO_SNR, "cpu")
    expected = DDPMScheduler(**config, rescale_betas_zero_snr=True).alphas_cumprod
    torch.testing.assert_close(ours.alphas, expected)
    assert ours.alphas[-1] == 0


class TestFlags:
    def test_of_the_app(self) -> None:
        settings = settings_from_args(["--zero-snr", "--prediction-type", "v_prediction"], {})
        options = load_options(settings)
        assert (options.zero_snr, options.prediction_type) == (True, "v_prediction")
        assert not load_options(without_additions(settings)).zero_snr
        assert settings_from_args([], {"IPADAPTER_ZERO_SNR": "yes"}).zero_snr
        assert not settings_from_args([], {}).zero_snr

    def test_of_the_command_line(
        self, folder: CatalogEntry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """And it says how the model is read."""
        given: dict[str, Any] = {}

        def loading(name: str, options: LoadOptions, *_: Any) -> Any:
            given.update(asdict(options))
            return load(folder, **{k: given[k] for k in ("prediction_type", "zero_snr")})

        code = main(
            [
                "generate",
                "--prompt",
                "a cube",
                "--steps",
                "1",
                "--zero-snr",
                "--prediction-type",
                "v_prediction",
                "--out",
                str(tmp_path),
            ],
            loading,
        )
        assert (code, given["zero_snr"]) == (0, True)
        assert "It predicts v and was trained up to zero terminal SNR" in capsys.readouterr().err
