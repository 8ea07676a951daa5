"""Hosting as far as it can be tested without a host: locked packages, the files of a Space and of
a container, and weights that are what they were."""

from __future__ import annotations

import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models import weight_hashes
from ipadapter_demo.models.annotators import DETECTORS, _loaded
from ipadapter_demo.models.catalog import CATALOG, TABLETOP
from ipadapter_demo.pipeline import load
from ipadapter_demo.settings import Settings
from scripts import space

ROOT = Path(__file__).parent.parent
PIN = re.compile(r"^([a-z0-9][a-z0-9-]*)(?:\[[a-z,]+\])?==([^\s;\\]+)", re.MULTILINE)


def pins(path: str) -> set[tuple[str, str]]:
    """(package, version) of a file; a lock has two versions of some, for different Pythons."""
    return set(PIN.findall((ROOT / path).read_text(encoding="utf-8").lower().replace("_", "-")))


# Locked packages

LOCKS = ["demo", "dev", "space"]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_hashes_and_no_address(lock: str) -> None:
    text = (ROOT / f"locks/{lock}.txt").read_text(encoding="utf-8")
    if lock == "dev":
        text += (ROOT / "locks/demo.txt").read_text(encoding="utf-8")
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) > 100
    for entry in entries:
        assert re.fullmatch(
            r"[a-z0-9.-]+==\S+( ; .*?)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n", entry
        ), entry[:200]
    assert "//" not in text
    assert "--index" not in text


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [
        ("demo", ["requirements.txt"]),
        ("dev", ["requirements.txt", "requirements-train.txt", "requirements-dev.txt"]),
        ("space", ["requirements.txt"]),
    ],
)
def test_a_lock_holds_what_is_required(lock: str, requirements: list[str]) -> None:
    """`make lock` writes them anew."""
    wanted = set().union(*(pins(file) for file in requirements))
    locked = pins(f"locks/{lock}.txt")
    if lock == "dev":
        locked |= pins("locks/demo.txt")
    if lock == "space":
        overridden = pins("locks/space.overrides")
        assert overridden <= locked
        wanted = {pin for pin in wanted if pin[0] not in dict(overridden)}
    assert wanted <= locked


def test_all_locks_agree_but_for_what_a_space_overrides() -> None:
    names = dict(pins("locks/demo.txt"))
    assert (ROOT / "locks/dev.txt").read_text(encoding="utf-8").startswith("-r demo.txt\n")
    in_dev = {pin for pin in pins("locks/dev.txt") if pin[0] in names}
    assert in_dev <= pins("locks/demo.txt")  # those that it needs on more systems
    # pip-audit does not follow the reference
    audit = (ROOT / "Makefile").read_text(encoding="utf-8").split("\naudit:")[1]
    assert "-r locks/demo.txt -r locks/dev.txt" in audit
    in_space = {pin for pin in pins("locks/space.txt") if pin[0] in names}
    assert {name for name, _ in in_space ^ pins("locks/demo.txt")} == {
        "pydantic",
        "pydantic-core",
    }


def test_a_space_s_own_packages_are_in_its_lock() -> None:
    """It installs gradio[oauth,mcp] and spaces beside the requirements, in one command."""
    locked = pins("locks/space.txt")
    assert {"authlib", "itsdangerous", "mcp", "spaces", "websockets"} <= dict(locked).keys()
    front = yaml.safe_load((ROOT / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert ("gradio", front["sdk_version"]) in locked


def test_the_cpu_variant_leaves_out_cuda_and_nothing_else(tmp_path: Path) -> None:
    """The installer, with a stand-in for pip that writes down what it is asked for."""
    said = tmp_path / "said"
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "$@" >> {said}\n'
        f'case "$*" in *require-hashes*) for file; do :; done; cp "$file" {said}.locked;; esac\n'
    )
    python.chmod(0o755)
    script = [ROOT / "scripts/install_locked.sh", python, ROOT / "locks/demo.txt"]
    subprocess.run(["bash", *script, "cpu", "https://wheels.example/cpu"], check=True)
    torch_pins = [f"{n}=={v}" for n, v in sorted(pins("locks/demo.txt")) if n in TORCH]
    locked, torch_line = said.read_text().splitlines()
    assert "--no-deps --require-hashes" in locked
    assert torch_line.endswith(f"--index-url https://wheels.example/cpu {' '.join(torch_pins)}")
    left = set(PIN.findall((tmp_path / "said.locked").read_text()))
    gone = {name for name, _ in pins("locks/demo.txt") - left}
    assert gone == {n for n, _ in pins("locks/demo.txt") if n.startswith(("nvidia-", "cuda-"))} | {
        *TORCH,
        "triton",
    }
    wrong = subprocess.run(["bash", *script, "tpu"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "variant must be cpu or cuda, got tpu" in wrong.stderr


TORCH = {"torch", "torchvision"}


# A Space


DOCUMENTED = (  # https://huggingface.co/docs/hub/spaces-config-reference, and a card's own
    "title emoji colorFrom colorTo sdk python_version sdk_version suggested_hardware "
    "suggested_storage app_file app_port base_path fullWidth header short_description models "
    "datasets tags thumbnail pinned hf_oauth hf_oauth_scopes hf_oauth_expiration_minutes "
    "disable_embedding startup_duration_timeout custom_headers preload_from_hub license"
)
HARDWARE = {"cpu-basic", "cpu-upgrade", "zero-a10g", "t4-small", "l4x1", "a10g-small"}


def test_the_front_matter_has_documented_keys_alone() -> None:
    front = yaml.safe_load((ROOT / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert front.keys() <= set(DOCUMENTED.split())
    assert front["suggested_hardware"] in HARDWARE
    assert isinstance(front["pinned"], bool)
    assert all(isinstance(tag, str) for tag in front["tags"])


def test_a_space_s_folder_is_complete_and_small(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "space"
    space.main(folder)
    said = capsys.readouterr().out
    assert "unet/diffusion_pytorch_model.safetensors: over 10 MiB, for `hf upload`" in said
    names = {path.name for path in folder.iterdir()}
    assert {"app.py", "README.md", "requirements.txt", "assets", "ipadapter_demo"} <= names
    assert not names & {"tests", "docs", ".venv", "locks"}
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 200 * 2**20
    code = "from ipadapter_demo.assets import asset; import app; print(asset('assets/tabletop'))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(folder / "assets/tabletop")
    with pytest.raises(SystemExit, match="is not empty"):
        space.main(folder)


def test_a_space_s_requirements_are_pins_without_hashes() -> None:
    """pip refuses every package without a hash as soon as one has one."""
    lines = space.requirements((ROOT / "locks/space.txt").read_text()).splitlines()
    assert {tuple(PIN.findall(line)[0]) for line in lines} == pins("locks/space.txt")
    assert "hash" not in "".join(lines)
    assert len(lines) > 100


# A container


def test_the_container_copies_only_what_there_is() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }
    assert names == allowed
    assert all((ROOT / name).exists() for name in names)
    stages = text.split("\nFROM ")
    assert "USER 1000" in stages[-1]
    assert "HEALTHCHECK" in stages[-1]


def test_the_variables_of_the_container_are_settings() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    given = set(compose["services"]["demo"]["environment"])
    given |= set(re.findall(r"\b(IPADAPTER_\w+)=", text))
    names = {f"IPADAPTER_{name.upper()}" for name in Settings.__dataclass_fields__}
    assert given - {"FORWARDED_ALLOW_IPS"} <= names  # uvicorn's own
    [(files, most)] = [one.split(":size=") for one in compose["services"]["demo"]["tmpfs"]]
    assert (files, most) == ("/tmp", "4g"), "visitors' files must not fill the memory"
    assert compose["services"]["demo"]["environment"]["IPADAPTER_UPLOAD_QUOTA_TOTAL"].endswith(
        "2gb}"
    )
    arguments = {service["build"]["args"]["VARIANT"] for service in compose["services"].values()}
    assert arguments == {"cpu", "cuda"}


# Weights


def test_the_built_in_weights_are_those_recorded() -> None:
    """After a change on purpose: python -m ipadapter_demo.models.weight_hashes assets/tabletop"""
    weight_hashes.check_hashes(TABLETOP.folder)
    found = weight_hashes.weight_hashes(TABLETOP.folder)
    recorded = weight_hashes.recorded_hashes(TABLETOP.folder)
    assert found == recorded


def test_a_flipped_bit_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tabletop"
    shutil.copytree(TABLETOP.folder, folder)
    monkeypatch.setitem(CATALOG, "tabletop", replace(TABLETOP, folder=folder))
    file = folder / "ip-adapter.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    recorded = weight_hashes.recorded_hashes(folder)[file.name]
    with pytest.raises(ModelError) as said:
        load("tabletop", device="cpu")
    found = weight_hashes.weight_hashes(folder)[file.name]
    assert str(said.value).startswith(f"{file} has the SHA-256 {found}, but {recorded} is")
    weight_hashes.record_hashes(folder)  # it was replaced on purpose
    weight_hashes.check_hashes(folder)
    file.unlink()
    with pytest.raises(ModelError, match=r"ip-adapter\.safetensors is missing: restore it"):
        weight_hashes.check_hashes(folder)


class Opened:
    """Unpickled as a file that is made."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


PICKLED = [
    name
    for name, detector in DETECTORS.items()
    if detector.weights and all(file.endswith((".pth", ".pt")) for file in detector.weights.files)
]


@pytest.mark.parametrize("annotator", PICKLED)
def test_a_detector_s_weights_are_read_as_numbers(annotator: str, tmp_path: Path) -> None:
    """controlnet-aux leaves it to torch, which reads weights alone unless it is told otherwise."""
    ran = tmp_path / "ran"
    weights = DETECTORS[annotator].weights
    assert weights is not None
    for file in weights.files:
        torch.save({"state_dict": Opened(ran), "model": Opened(ran)}, tmp_path / file)
    with pytest.raises(ModelError, match=f"the detector {annotator} cannot be loaded"):
        _loaded(annotator, tmp_path)
    assert not ran.exists()
    with (tmp_path / "proof").open("wb") as proof:
        pickle.dump(Opened(ran), proof)
    with (tmp_path / "proof").open("rb") as proof:
        pickle.load(proof).close()
    assert ran.exists()  # it would have
