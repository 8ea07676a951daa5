"""Replicas on Ray Serve draw what a single process draws, byte for byte, also when one of them is
killed; Stop reaches them; their errors are those of the model."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray import serve
from ray.exceptions import ActorDiedError
from ray.serve.schema import ServeDeploySchema

from ipadapter_demo import cli
from ipadapter_demo.errors import ModelError, RequestError
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.pipeline import ImagePromptPipeline, Preview, Result, load
from ipadapter_demo.record import save_png
from ipadapter_demo.request import GenerateRequest, Inpaint, Reference, Structure
from ipadapter_demo.serving.ray import (
    Scale,
    application,
    check_room,
    remote_pipeline,
    scale_of,
    started,
)
from ipadapter_demo.serving.remote import RemotePipeline, _Drawing
from ipadapter_demo.serving.replica_manager import ReplicaManager
from ipadapter_demo.settings import Settings, replica_range, settings_from_args
from tests.tiny import box_mask, picture

pytestmark = [
    pytest.mark.slow,
    # Ray leaves the pipes of the processes that it starts to the end of this one.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

PAUSE = 0.5  # seconds that a step takes in a replica that was slowed down
REFERENCE = Reference(image=picture(1))
SHORT = GenerateRequest(prompt="a", references=(REFERENCE,), steps=3)
LONG = replace(SHORT, steps=10, seed=7)
REQUESTS = [
    SHORT,
    replace(SHORT, count=2, guidance=1.0, seed=3),
    replace(SHORT, structures=(Structure(kind="canny", image=picture(2)),)),
    GenerateRequest(
        references=(REFERENCE,),
        inpaint=Inpaint(image=picture(4), mask=box_mask((8, 8, 40, 40))),
        steps=2,
    ),
]
ONE_THREAD = Scale(least=2, most=2, threads=1)


@pytest.fixture(scope="module")
def alone(entry: CatalogEntry) -> ImagePromptPipeline:
    """The single process."""
    return load(entry, device="cpu")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_worker_niceness", "0")  # else they starve beside another test
        ray.init(
            num_cpus=4,
            object_store_memory=80 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
        started(Settings())
        yield
        serve.shutdown()
        ray.shutdown()


@pytest.fixture(scope="module")
def models(cluster: None, entry: CatalogEntry) -> dict[str, Any]:
    """Two replicas of one model, one of another, and the error of a third; started all at once,
    since a process takes longer to start than all that is done here."""
    tiny, other = entry, replace(entry, name="other", structures={})
    broken = replace(entry, name="broken", folder=entry.folder / "nowhere")

    def found(model: CatalogEntry, scale: Scale) -> Any:
        try:
            return remote_pipeline(model, LoadOptions(device="cpu"), scale)
        except ModelError as error:
            return error

    one = Scale(threads=1)
    with ThreadPoolExecutor(3) as pool:
        return dict(
            zip(
                ("tiny", "other", "broken"),
                pool.map(found, (tiny, other, broken), (ONE_THREAD, one, one)),
                strict=True,
            )
        )


@pytest.fixture(scope="module")
def remote(models: dict[str, Any]) -> RemotePipeline:
    return models["tiny"]


def files(result: Result) -> list[bytes]:
    """The PNGs of a result, records included."""
    found = []
    for number, (image, seed) in enumerate(zip(result.images, result.seeds, strict=True)):
        file = io.BytesIO()
        save_png(file, image, result.request, seed, number, result.provenance)
        found.append(file.getvalue())
    return found


def of_both(remote: RemotePipeline, question: Callable[[ImagePromptPipeline], Any]) -> dict:
    """What a question finds out in each of two replicas, by their processes."""
    found: dict[int, Any] = {}
    deadline = time.monotonic() + 60
    while len(found) < 2:
        assert time.monotonic() < deadline
        process, answer = remote._ask(lambda pipeline: (os.getpid(), question(pipeline)))
        found[process] = answer
    return found


def slow_down(pipeline: Any) -> None:
    """From now on, once: a pause in each call of the UNet, which are counted."""
    if not hasattr(pipeline, "calls"):
        pipeline.calls = 0

        def pause(*_: Any) -> None:
            pipeline.calls += 1
            time.sleep(PAUSE)

        pipeline._model.unet.register_forward_pre_hook(pause)


def calls_of(pipeline: Any) -> int:
    return pipeline.calls


@pytest.fixture(scope="module")
def slow(remote: RemotePipeline) -> RemotePipeline:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # replicas have no tests
    of_both(remote, slow_down)
    return remote


def test_both_replicas_draw_what_the_single_process_draws(
    remote: RemotePipeline, alone: ImagePromptPipeline
) -> None:
    """Law 3, whole files compared, with everything about the model that a page shows."""
    with ThreadPoolExecutor(4) as visitors:
        drawn = list(visitors.map(remote.generate, REQUESTS))
    for request, result in zip(REQUESTS, drawn, strict=True):
        expected = alone.generate(request)
        assert files(result) == files(expected)
        assert result.maps == expected.maps
        assert result.warnings == expected.warnings
    assert (remote.info, remote.provenance) == (alone.info, alone.provenance)
    assert remote.provenance_of(SHORT) == alone.provenance_of(SHORT)
    assert remote.previews().encoder_view(REFERENCE) == alone.encoder_view(REFERENCE)
    assert remote.structure_maps(REQUESTS[2]) == alone.structure_maps(REQUESTS[2])
    assert remote.working_size(SHORT) == alone.working_size(SHORT)
    assert remote.image_embeds([picture(1)]).equal(alone.image_embeds([picture(1)]))


def test_previews_come_step_by_step_and_attention_maps_with_the_result(
    remote: RemotePipeline, alone: ImagePromptPipeline
) -> None:
    found = list(remote.stream(SHORT, preview_every=2, record_attention=True))
    expected = list(alone.stream(SHORT, preview_every=2, record_attention=True))
    told, own = ([replace(one, seconds=0.0) for one in events[:-1]] for events in (found, expected))
    assert told == own
    assert found[-1].attention_maps == expected[-1].attention_maps
    assert found[-1].attention_maps


def test_errors_are_those_of_the_model(remote: RemotePipeline) -> None:
    unknown = replace(SHORT, adapter="nonesuch")
    with pytest.raises(RequestError, match="adapter must be one of those of tiny"):
        remote.generate(unknown)
    first, broken, last = remote.outcomes([SHORT, unknown, SHORT], background=True)
    assert isinstance(broken, RequestError)
    assert files(first) == files(last)


def test_stop_reaches_the_replica_within_a_step(slow: RemotePipeline) -> None:
    before = of_both(slow, calls_of)
    events = slow.stream(LONG)
    assert [next(events).step, next(events).step] == [1, 2]
    events.close()
    deadline = time.monotonic() + 60
    while any(of_both(slow, lambda pipeline: len(pipeline._engine._jobs)).values()):
        assert time.monotonic() < deadline
    after = of_both(slow, calls_of)
    drawn = sum(after.values()) - sum(before.values())
    assert drawn <= 4, "the step at work ends, and at most the one begun meanwhile"


def test_a_killed_replicas_request_is_drawn_elsewhere_with_the_same_bytes(
    slow: RemotePipeline, alone: ImagePromptPipeline
) -> None:
    """Law 3."""
    events = slow.stream(LONG)
    steps = [next(events).step]
    jobs = of_both(slow, lambda pipeline: len(pipeline._engine._jobs))
    [drawing] = [process for process, count in jobs.items() if count]
    os.kill(drawing, signal.SIGKILL)
    *previews, result = events
    steps += [event.step for event in previews if isinstance(event, Preview)]
    again = list(range(1, LONG.steps + 1))
    assert steps[-len(again) :] == again
    assert len(steps) > len(again)
    assert files(result) == files(alone.generate(LONG))


def test_each_model_has_a_line_of_its_own(
    remote: RemotePipeline, alone: ImagePromptPipeline, models: dict[str, Any]
) -> None:
    """Who wants another model waits neither for whoever draws nor for a switch."""

    def prepared(name: str, _: Any) -> Callable[[], RemotePipeline]:
        assert name == "other", "the first is there"
        return lambda: models[name]

    manager = ReplicaManager(remote, prepared, {"other": "other"}, most=2)
    assert manager.line.at_once == 2
    assert manager.info_of("other") is None
    with manager.turn("tiny"), manager.turn("tiny"), manager.turn("other") as turn:
        assert turn.ahead == 0
        assert not manager.is_loaded("other")
        result = manager.at_turn(turn).generate(SHORT)
        assert manager.is_loaded("other")
        assert manager.is_loaded("tiny")
        with pytest.raises(RequestError, match="2 visitors are in line"), manager.turn("tiny"):
            pass
    assert result.images == alone.generate(SHORT).images
    assert manager.info_of("other").structures == {}
    assert manager.previews("other").working_size(SHORT) == (64, 64)
    [cell, error] = manager.draw_in_background("tiny", [SHORT, replace(SHORT, adapter="x")])
    assert cell.images == result.images
    assert isinstance(error, RequestError)
    with pytest.raises(RequestError, match="model must be one of tiny, other, got 'sd0'"):
        manager.with_model("sd0")


def test_a_model_that_cannot_be_read_says_why(models: dict[str, Any]) -> None:
    assert isinstance(models["broken"], ModelError)
    assert re.fullmatch(r"model broken: no folder \S+nowhere", str(models["broken"]))
    assert serve.status().applications.keys() == {"tiny", "other"}


def test_an_application_that_is_there_is_taken_as_it_is(models: dict[str, Any]) -> None:
    """As those that a config file of Serve brought up."""
    again = remote_pipeline("other", LoadOptions(models_dir=Path("nowhere")), Scale(most=3))
    assert again.info == models["other"].info
    assert again.share_steps == 3


# How many, where, and what a config file of Serve says


def options_of(app: Any) -> Any:
    return app._bound_deployment._deployment_config


def test_serve_scales_the_replicas_with_the_queue(cluster: None) -> None:
    app = application({"model": "tabletop", "replicas": "1-4", "device": "cuda"})
    config, scaling = options_of(app), options_of(app).autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 4)
    assert scaling.target_ongoing_requests == 8, "as many as share calls on CUDA"
    assert config.max_ongoing_requests == 32, "the engine of a replica has them in order"
    assert app._bound_deployment.ray_actor_options == {"num_cpus": 1, "num_gpus": 1}
    alone = options_of(application({"device": "cpu", "share_steps": 3}))
    assert alone.autoscaling_config.max_replicas == 1
    assert alone.max_ongoing_requests == 32


def test_replicas_on_a_cpu_divide_the_cores(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert scale_of(Settings(replicas="2")) == Scale(2, 2, threads=4)
    assert scale_of(Settings(replicas="1-16")) == Scale(1, 16, threads=1)
    assert scale_of(Settings()) == Scale(1, 1, threads=8)
    assert scale_of(Settings(device="cuda", replicas="3")) == Scale(3, 3, gpus=1)


def test_a_model_without_room_for_its_replicas_is_refused(cluster: None) -> None:
    with pytest.raises(ModelError, match="model big: 2 replicas need 2 GPUs, 0 are free"):
        check_room("big", Scale(least=2, most=2, gpus=1))


def test_a_request_that_kills_its_replicas_ends_with_an_error() -> None:
    begun = []

    class Dying:
        def __iter__(self) -> Iterator[Preview]:
            begun.append(self)
            yield Preview(1, 3)
            raise ActorDiedError

        def cancel(self) -> None: ...

    with pytest.raises(ModelError, match="3 replicas died while they drew this request"):
        list(_Drawing(Dying).events())
    assert len(begun) == 3


def test_the_manifest_is_what_serve_and_kuberay_read() -> None:
    """Fields as the operator documents them: ray-operator/apis/ray/v1 of ray-project/kuberay."""
    path = Path(__file__).parents[1] / "deploy" / "rayservice.yaml"
    service, page = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    assert service["spec"].keys() <= {"serveConfigV2", "rayClusterConfig", "serveService"}
    cluster = service["spec"]["rayClusterConfig"]
    known = {"headGroupSpec", "workerGroupSpecs", "rayVersion", "enableInTreeAutoscaling"}
    assert cluster.keys() <= known | {"autoscalerOptions", "headServiceAnnotations", "suspend"}
    assert cluster["rayVersion"] == ray.__version__
    head, [workers] = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    group = {"rayStartParams", "template"}
    assert group <= head.keys() <= group | {"serviceType", "headService", "enableIngress"}
    sizes = {"groupName", "replicas", "minReplicas", "maxReplicas"}
    assert workers.keys() == group | sizes
    assert all(isinstance(value, str) for value in head["rayStartParams"].values())
    _, container = head["template"]["spec"]["containers"]
    command = container["command"]
    assert command[:2] == ["ipadapter-demo", "serve"]
    variables = {one["name"]: one["value"] for one in container["env"]}
    settings = settings_from_args(command[2:], variables)
    assert settings.ray
    assert page["spec"]["selector"] == head["template"]["metadata"]["labels"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
        "page": settings.port,
        "metrics": settings.metrics_port,
    }
    config = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    for found in config.applications:
        module, name = found.import_path.split(":")
        assert getattr(import_module(module), name) is application
        own = Settings(**found.args)
        assert found.name == own.model, "the page looks for an application of the model's name"
        assert (own.replicas, own.device) == (settings.replicas, settings.device)
        assert replica_range(own.replicas)[1] == workers["maxReplicas"]


def test_without_ray_serve_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["serve", "--ray"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.endswith("ray needs Ray Serve, which is not installed: pip install -r "
                         "requirements-ray.txt")  # fmt: skip
    assert "\n" not in said
