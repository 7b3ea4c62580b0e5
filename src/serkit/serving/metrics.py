"""What Prometheus reads at ``/metrics``, of one process or of all workers together."""

from __future__ import annotations

import os
from pathlib import Path

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

prometheus_client.disable_created_metrics()

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that names the folder which all workers share; it must be set before this module is imported."""
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCIES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
JUDGING = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """Counts of one process; where workers share a folder, :meth:`text` adds them up.

    Labels are routes as they are declared, never what a client wrote.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "serkit_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "serkit_request_seconds",
            "Time from a request's head to the end of its answer.",
            ["route"],
            buckets=LATENCIES,
            registry=self.registry,
        )
        self.audio = Counter("serkit_audio_seconds", "Seconds of audio decoded.", registry=self.registry)
        self.windows = Histogram(
            "serkit_window_seconds",
            "Time to judge one window; its count is the number of windows judged.",
            buckets=JUDGING,
            registry=self.registry,
        )
        self.waiting = self._gauge("serkit_queue_windows", "Windows that wait to be judged.")
        self.under_way = self._gauge("serkit_requests_under_way", "Requests with a place: uploading or judged.")
        self.streams = self._gauge("serkit_live_streams", "Live streams that are open.")

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry, multiprocess_mode="livesum")

    def judged(self, seconds: float) -> None:
        """Count one window, judged in so many ``seconds``."""
        self.windows.observe(seconds)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self.requests.labels(method, route, str(status)).inc()
        self.latency.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        if not os.environ.get(FOLDER):
            return generate_latest(self.registry)
        every = CollectorRegistry()
        MultiProcessCollector(every)
        return generate_latest(every)


def forget_process(pid: int) -> None:
    """Let the gauges of a worker that is dead count no more."""
    for path in Path(os.environ[FOLDER]).glob(f"gauge_live*_{pid}.db"):
        path.unlink(missing_ok=True)
