"""Figures of a server for Prometheus, on a port of their own: requests, queue, seconds a step,
pictures, errors, memory.

All but the queue and the memory are counted from the log, which has a line for every request.
"""

from __future__ import annotations

import logging
from wsgiref.simple_server import WSGIServer

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.process_collector import ProcessCollector

from ipadapter_demo.errors import ModelError
from ipadapter_demo.serving.logs import PACKAGE, facts_of
from ipadapter_demo.serving.manager import ModelManager

# From the built-in model on a GPU to SDXL on a CPU.
STEP_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics(logging.Handler):
    """Counts what passes through the log."""

    def __init__(self, manager: ModelManager) -> None:
        super().__init__()
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "ipadapter_requests",
            "Requests by their end: drawn, refused, stopped or failed",
            ["model", "outcome"],
            registry=registry,
        )
        self._pictures = Counter(
            "ipadapter_pictures", "Pictures drawn", ["model"], registry=registry
        )
        self._steps = Histogram(
            "ipadapter_step_seconds",
            "Seconds a step, the mean of a request",
            ["model"],
            buckets=STEP_SECONDS,
            registry=registry,
        )
        self._errors = Counter(
            "ipadapter_errors", "Errors in the log by their type", ["type"], registry=registry
        )
        waiting = Gauge("ipadapter_waiting", "Visitors who wait in line", registry=registry)
        working = Gauge("ipadapter_working", "Visitors who are at work", registry=registry)
        lines = manager.lines
        waiting.set_function(lambda: sum(len(line.turns) - len(line.at_work()) for line in lines()))
        working.set_function(lambda: sum(len(line.at_work()) for line in lines()))
        if torch.cuda.is_available():
            memory = Gauge("ipadapter_gpu_bytes", "GPU memory in use by torch", registry=registry)
            cards = range(torch.cuda.device_count())  # this thread's own card is the first
            memory.set_function(lambda: sum(map(torch.cuda.memory_reserved, cards)))

    def emit(self, record: logging.LogRecord) -> None:
        facts = facts_of(record)
        if facts:
            model = str(facts["model"])
            self._requests.labels(model, facts["outcome"]).inc()
            self._pictures.labels(model).inc(facts.get("pictures", 0))
            if "step_seconds" in facts:
                self._steps.labels(model).observe(facts["step_seconds"])
        if record.levelno >= logging.ERROR:
            error = record.exc_info[1] if record.exc_info else None
            self._errors.labels("none" if error is None else type(error).__name__).inc()


def serve_metrics(manager: ModelManager, host: str, port: int) -> WSGIServer:
    """The server, which has a thread of its own. Raises ModelError where the port cannot be had."""
    metrics = Metrics(manager)
    try:
        server, _ = start_http_server(port, host, metrics.registry)
    except OSError as error:
        raise ModelError(f"metrics_port {port} on {host}: {error.strerror}") from error
    logging.getLogger(PACKAGE).addHandler(metrics)
    return server
