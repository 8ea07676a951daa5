"""Models with replicas on Ray Serve: on the devices of one machine, or of a cluster.

Each model is an application of its own, so nobody waits for another's model to be loaded. Serve has
as many replicas of it as the queue calls for, puts each on a device, and starts a new one for one
that dies.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from ipadapter_demo.errors import ModelError
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.sources import Report, no_report
from ipadapter_demo.pipeline import SHARE_ON_CUDA
from ipadapter_demo.serving.limits import Limits
from ipadapter_demo.serving.manager import Offers
from ipadapter_demo.serving.offered import options_of
from ipadapter_demo.serving.remote import RemotePipeline
from ipadapter_demo.serving.replica import MOST_AT_ONCE, Replica
from ipadapter_demo.serving.replica_manager import ReplicaManager
from ipadapter_demo.settings import Settings, replica_range

if TYPE_CHECKING:
    from ray.serve import Application

MISSING = "ray needs Ray Serve, which is not installed: pip install -r requirements-ray.txt"
STORE = 256 * 2**20  # bytes of shared memory on one machine, for pictures on their way
# A queue that is shorter than a model takes to load has gone until then.
SCALING = {"upscale_delay_s": 10.0, "downscale_delay_s": 600.0}
_building = Lock()  # Serve marks modules for pickling meanwhile, and cannot for two at once
QUIET = {"log_level": "WARNING", "enable_access_log": False}


@dataclass(frozen=True, slots=True)
class Scale:
    """`least` replicas of a model at any time and `most` while there is a queue, each with so many
    GPUs for itself. `threads` are a replica's on a CPU; None leaves them to torch."""

    least: int = 1
    most: int = 1
    gpus: int = 0
    threads: int | None = None


def replica_manager(settings: Settings, models: Mapping[str, str] | Offers) -> ReplicaManager:
    """The model of the settings with its replicas, and `models`, which get theirs when they are
    first asked for. Raises ModelError or CheckpointError."""
    joined = started(settings)
    prepared = prepared_by(settings, scale_of(settings), joined)
    first = prepared(settings.model, no_report)()
    return ReplicaManager(first, prepared, models, settings.queue_size, Limits.of(settings))


def prepared_by(
    settings: Settings, scale: Scale, joined: bool
) -> Callable[[str, Report], Callable[[], RemotePipeline]]:
    """Finds models for a page. A replica fetches what is missing: of the operator's own model in
    any case, of others only where visitors may have that done."""

    def prepared(name: str, _: Report) -> Callable[[], RemotePipeline]:
        options = options_of(settings, name)
        if not joined:
            check_room(name, scale)
        return partial(remote_pipeline, name, options, scale)

    return prepared


def started(settings: Settings) -> bool:
    """True where a cluster was joined, the one of RAY_ADDRESS; else there is one of this process
    now, which ends with it. Serve listens on no port: the page calls replicas by handles."""
    with _installed():
        import ray
        from ray import serve
    joined = "RAY_ADDRESS" in os.environ or ray.is_initialized()
    if not ray.is_initialized():
        options: dict[str, Any] = {"include_dashboard": False, "logging_level": "error"}
        if not joined:
            os.environ.setdefault("RAY_worker_niceness", "0")  # replicas are no background work
            cores = max(replica_range(settings.replicas)[1], os.cpu_count() or 1)
            options |= {"num_cpus": cores, "object_store_memory": STORE}
        ray.init(**options)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="Disabled", logging_config=QUIET)
    return joined


def scale_of(settings: Settings) -> Scale:
    """By default as many replicas as the cluster has GPUs, or one."""
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    on_gpu = settings.device == "cuda" or (settings.device is None and gpus > 0)
    least, most = replica_range(settings.replicas)
    if not settings.replicas and on_gpu:
        most = max(1, gpus)
    if on_gpu:
        return Scale(least, most, gpus=1)
    return Scale(least, most, threads=max(1, (os.cpu_count() or 1) // most))


def check_room(name: str, scale: Scale) -> None:
    """Raises ModelError where this machine has no room for another model's replicas: Serve would
    wait for it without an end."""
    import ray

    free = ray.available_resources()
    for kind, needed in (("GPU", scale.least * scale.gpus), ("CPU", scale.least)):
        if free.get(kind, 0) < needed:
            raise ModelError(
                f"model {name}: {scale.least} replicas need {needed} {kind}s, "
                f"{free.get(kind, 0):g} are free"
            )


def application(arguments: Mapping[str, Any]) -> Application:
    """For a config file of Serve: `arguments` are settings by their names, `model` and `replicas`
    among them. The page finds the application by its name, which is the model's."""
    settings = Settings(**arguments)
    return _application(settings.model, options_of(settings, settings.model), scale_of(settings))


def remote_pipeline(
    model: str | CatalogEntry, options: LoadOptions, scale: Scale
) -> RemotePipeline:
    """A model with its replicas, as soon as the first of them is ready. Those that a config file of
    Serve brought up under the model's name are taken as they are. Raises ModelError."""
    from ray import serve

    name = model if isinstance(model, str) else model.name
    if name in serve.status().applications:
        return RemotePipeline(serve.get_app_handle(name), scale.most)
    try:
        handle = serve.run(_application(model, options, scale), name=name, route_prefix=None)
    except RuntimeError as error:
        failure = _failure(name) or str(error)
        serve.delete(name)
        raise ModelError(_reason(name, failure)) from error
    atexit.register(_ended, name)
    return RemotePipeline(handle, scale.most)


def _application(model: str | CatalogEntry, options: LoadOptions, scale: Scale) -> Application:
    from ray import serve

    share = options.share_steps or (SHARE_ON_CUDA if scale.gpus else 1)
    with _building:
        deployment = serve.deployment(Replica).options(
            name="replica",
            # The engine of a replica lets whoever asks for less come first, which a queue before it
            # would not.
            max_ongoing_requests=MOST_AT_ONCE // 2,
            autoscaling_config={
                "min_replicas": scale.least,
                "max_replicas": scale.most,
                "target_ongoing_requests": share,
                **SCALING,
            },
            ray_actor_options={"num_cpus": 1, "num_gpus": scale.gpus},
            max_constructor_retry_count=1,  # a model that cannot be read cannot be read again
            logging_config=QUIET,
        )
    return deployment.bind(model, options, scale.threads)


def _failure(name: str) -> str:
    """All that Serve says of an application where no replica starts."""
    from ray import serve

    found = serve.status().applications.get(name)
    return "\n".join(one.message for one in found.deployments.values()) if found else ""


def _reason(name: str, failure: str) -> str:
    """The error of the model itself, out of the traceback."""
    own = re.findall(r"^ipadapter_demo\.errors\.\w+: (.+)", failure, re.MULTILINE)
    return own[-1] if own else f"model {name}: no replica started: {failure:.500}"


def _ended(name: str) -> None:
    """The devices are free again for others of the cluster."""
    import ray
    from ray import serve

    if ray.is_initialized():
        serve.delete(name)


@contextmanager
def _installed() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ModelError(MISSING) from error
