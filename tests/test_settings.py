"""Flag before environment before default; a bad value is named."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import ipadapter_demo
from ipadapter_demo.errors import ModelError
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.settings import (
    Settings,
    load_options,
    offered,
    replica_range,
    resolved_device,
    settings_from_args,
)


def test_defaults() -> None:
    settings = settings_from_args([], {})
    assert settings == Settings()
    assert (settings.model, settings.host, settings.port) == ("tabletop", "127.0.0.1", 7860)
    assert settings.share is False


def test_environment_before_default() -> None:
    env = {
        "IPADAPTER_MODEL": "sd15",
        "IPADAPTER_DEVICE": "cuda:1",
        "IPADAPTER_PORT": "8000",
        "IPADAPTER_MAX_FILE_SIZE": "5mb",
        "IPADAPTER_SHARE": "Yes",
    }
    assert settings_from_args([], env) == Settings(
        model="sd15", device="cuda:1", port=8000, max_file_size="5mb", share=True
    )


def test_flag_before_environment() -> None:
    env = {"IPADAPTER_PORT": "8000", "IPADAPTER_SHARE": "1"}
    settings = settings_from_args(["--port", "9000", "--no-share"], env)
    assert (settings.port, settings.share) == (9000, False)


def test_an_empty_variable_is_not_set() -> None:
    assert settings_from_args([], {"IPADAPTER_PORT": " ", "SPACE_ID": ""}) == Settings()


def test_a_space_listens_on_all_interfaces_unless_told() -> None:
    assert settings_from_args([], {"SPACE_ID": "name/space"}).host == "0.0.0.0"
    told = {"SPACE_ID": "name/space", "IPADAPTER_HOST": "127.0.0.1"}
    assert settings_from_args([], told).host == "127.0.0.1"
    assert settings_from_args(["--host", "::1"], {"SPACE_ID": "name/space"}).host == "::1"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("IPADAPTER_PORT", "http", "IPADAPTER_PORT must be a whole number, got 'http'"),
        ("IPADAPTER_PORT", "-1", "IPADAPTER_PORT must be a whole number"),
        ("IPADAPTER_PORT", "0", "port must be from 1 to 65535, got 0"),
        ("IPADAPTER_SHARE", "maybe", "IPADAPTER_SHARE must be one of 1, true"),
        ("IPADAPTER_DTYPE", "float8", "dtype must be one of auto, float32"),
        ("IPADAPTER_DEVICE", "gpu", "device must be cpu, mps, cuda"),
        ("IPADAPTER_MAX_FILE_SIZE", "20 megabytes", "max_file_size must be a size such as"),
        ("IPADAPTER_QUEUE_SIZE", "0", "queue_size must be from 1 to 1000, got 0"),
        ("IPADAPTER_MAX_COST", "much", "IPADAPTER_MAX_COST must be a whole number, got 'much'"),
        ("IPADAPTER_TIME_LIMIT", "-1", "IPADAPTER_TIME_LIMIT must be a whole number"),
        ("IPADAPTER_SHARE_STEPS", "0", "share_steps must be from 1 to 64, got 0"),
        ("IPADAPTER_REPLICAS", "4-2", 'replicas must be a number or a range such as "1-4", got'),
        (
            "IPADAPTER_REPLICAS",
            "0",
            "replicas must be a number or a range such as \"1-4\", got '0'",
        ),
        ("IPADAPTER_METRICS_PORT", "0", "metrics_port must be from 1 to 65535, got 0"),
        ("IPADAPTER_SHARE_STEPS", "all", "IPADAPTER_SHARE_STEPS must be a whole number, got 'all'"),
    ],
)
def test_a_bad_variable_ends_the_program_with_its_name(
    variable: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        settings_from_args([], {variable: value})
    assert message in capsys.readouterr().err


def test_a_limit_may_be_left_out_and_is_never_less_than_nothing() -> None:
    assert settings_from_args(["--max-cost", "0", "--time-limit", "0"], {}).max_cost == 0
    for name in ("max_cost", "time_limit", "visitor_requests"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number, or 0 .* got -1"):
            Settings(**{name: -1})  # type: ignore[arg-type]


def test_figures_have_a_port_of_their_own() -> None:
    with pytest.raises(ValueError, match="metrics_port must be another than the page's port, got"):
        Settings(port=7999, metrics_port=7999)


def test_models_are_offered_by_their_names() -> None:
    given = settings_from_args(["--models", "tabletop, sd15,,sd15"], {})
    assert offered(given) == ("tabletop", "sd15")
    assert offered(settings_from_args([], {"IPADAPTER_MODELS": "sdxl"})) == ("sdxl",)
    assert offered(Settings()) == ()


@pytest.mark.parametrize(
    ("text", "found"), [("", (1, 1)), ("3", (3, 3)), ("1-4", (1, 4)), ("4-", (1, 0)), ("x", (1, 0))]
)
def test_replicas_are_a_number_or_a_range(text: str, found: tuple[int, int]) -> None:
    assert replica_range(text) == found


def test_with_ray_a_replica_gets_its_card_from_ray() -> None:
    assert Settings(ray=True, device="cuda").ray
    with pytest.raises(ValueError, match="device must be cpu or cuda with ray, got 'cuda:1'"):
        Settings(ray=True, device="cuda:1")


def test_figures_and_json_logs_are_off_unless_asked_for() -> None:
    assert (Settings().metrics_port, Settings().log_json, Settings().ray) == (None, False, False)
    settings = settings_from_args(["--metrics-port", "9100", "--log-json"], {})
    assert (settings.metrics_port, settings.log_json) == (9100, True)


@pytest.mark.parametrize("flags", [["--port", "x"], ["--port", "70000"], ["--dtype", "int4"]])
def test_a_bad_flag_ends_the_program(flags: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        settings_from_args(flags, {})


def test_requests_that_share_calls_are_as_many_as_is_said() -> None:
    assert load_options(settings_from_args([], {})).share_steps is None
    assert load_options(settings_from_args([], {"IPADAPTER_SHARE_STEPS": "4"})).share_steps == 4
    settings = settings_from_args(["--share-steps", "2", "--share"], {"IPADAPTER_SHARE_STEPS": "4"})
    assert (load_options(settings).share_steps, settings.share) == (2, True)


def test_files_that_go_with_a_model() -> None:
    settings = settings_from_args(
        [
            "--lora",
            "a/style.safetensors:0.8, other.safetensors",
            "--embedding",
            "cat.safetensors",
            "--models-dir",
            "models",
            "--base",
            "community.safetensors",
            "--offload",
        ],
        {},
    )
    options = load_options(settings)
    assert list(options.loras) == [
        (Path("a/style.safetensors"), 0.8),
        (Path("other.safetensors"), 1),
    ]
    assert list(options.embeddings) == [Path("cat.safetensors")]
    assert (options.models_dir, options.base) == (Path("models"), "community.safetensors")
    assert options.offload
    assert not load_options(Settings()).loras
    with pytest.raises(ValueError, match=r"lora must be FILE\.safetensors .* 'style\.ckpt:0\.5'"):
        Settings(lora="style.ckpt:0.5")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["a.safetensors:.5"], [("a.safetensors", 0.5)]),
        (["a.safetensors:1e-1"], [("a.safetensors", 0.1)]),
        (["a.safetensors:-0.5"], [("a.safetensors", -0.5)]),
        (["a.safetensors:+2."], [("a.safetensors", 2.0)]),
        (["blue, green v1,5.safetensors:1"], [("blue, green v1,5.safetensors", 1.0)]),
        (
            ["x,y.safetensors:.25,z.safetensors", "C:/d/w.safetensors"],
            [("x,y.safetensors", 0.25), ("z.safetensors", 1.0), ("C:/d/w.safetensors", 1.0)],
        ),
        (["C:\\d\\w.safetensors"], [("C:\\d\\w.safetensors", 1.0)]),
        (["my style:0.7"], [("my style", 0.7)]),
        (["style.v2:0.7", "style.v2"], [("style.v2", 0.7), ("style.v2", 1.0)]),
        (["style (v2)"], [("style (v2)", 1.0)]),
        (["lcm,style"], [("lcm", 1.0), ("style", 1.0)]),
        (["lcm, my style :.5,c"], [("lcm", 1.0), ("my style", 0.5), ("c", 1.0)]),
        (["a:1, b.safetensors:2, c"], [("a", 1.0), ("b.safetensors", 2.0), ("c", 1.0)]),
    ],
)
def test_loras_and_their_weights(flags: list[str], expected: list[tuple[str, float]]) -> None:
    argv = [word for value in flags for word in ("--lora", value)]
    found = load_options(settings_from_args(argv, {})).loras
    assert found == tuple((Path(file), weight) for file, weight in expected)
    by_variable = settings_from_args([], {"IPADAPTER_LORA": "\n".join(flags)})
    assert load_options(by_variable).loras == found


@pytest.mark.parametrize(
    "wrong",
    [
        "a.safetensors:x",
        "a.safetensors:",
        "a.safetensors:nan",
        "a.safetensors:1e999",
        "a.ckpt",
        "lcm,a.ckpt",
        "lcm:x,a",
        "runs/style",
        ".safetensors",
    ],
)
def test_a_lora_with_a_bad_weight_or_name(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"lora must be FILE\.safetensors or FILE.*got"):
        Settings(lora=wrong)


def test_embeddings_and_their_suffixes() -> None:
    settings = settings_from_args(
        ["--embedding", "a, b.pt,c.bin", "--embedding", "d.safetensors"], {}
    )
    assert load_options(settings).embeddings == (
        Path("a, b.pt"),
        Path("c.bin"),
        Path("d.safetensors"),
    )
    with pytest.raises(ValueError, match=r"embedding must be a file .* got 'a\.ckpt'"):
        Settings(embedding="a.ckpt")


def test_settings_built_in_python_are_checked() -> None:
    with pytest.raises(ValueError, match="model must be a name, got ' '"):
        Settings(model=" ")


def test_a_device_that_was_asked_for_is_taken() -> None:
    assert resolved_device("cuda:3") == "cuda:3"
    assert resolved_device(None) in {"cpu", "cuda", "mps"}


@pytest.mark.parametrize(
    ("cuda", "mps", "taken"),
    [(False, False, "cpu"), (False, True, "mps"), (True, False, "cuda"), (True, True, "cuda")],
)
def test_the_best_device_there_is(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, taken: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    assert resolved_device(None) == taken
    assert resolved_device("cpu") == "cpu"


def test_settings_and_requests_do_not_wait_for_torch() -> None:
    code = (
        "import sys, ipadapter_demo as ip, ipadapter_demo.settings\n"
        "ip.GenerateRequest(), ip.request_to_json\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_belongs_to_a_model_is_handed_on_whole() -> None:
    """Every option of a load is a setting of its name, or of several files in one text."""
    texts = {"loras": "lora", "embeddings": "embedding"}
    texts |= {"controlnets": "controlnet", "t2i_adapters": "t2i_adapter"}
    texts |= {"fetch_later": "visitor_downloads"}  # by `serve` alone: else it is the operator's own
    names = {field.name for field in fields(Settings)}
    assert {texts.get(field.name, field.name) for field in fields(LoadOptions)} <= names
    assert load_options(Settings()) == LoadOptions()
    assert LoadOptions(models_dir="a", vae="b").vae == Path("b")  # type: ignore[arg-type]
    with pytest.raises(
        ModelError, match=r"models_dir must be a folder, got the file .*settings\.py"
    ):
        LoadOptions(models_dir=Path(__file__))


def test_everything_public_is_there() -> None:
    assert all(getattr(ipadapter_demo, name) for name in ipadapter_demo.__all__)
