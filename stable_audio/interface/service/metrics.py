"""Figures of the service for Prometheus, and the estimate of waiting times that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stable_audio.interface.service.records import JobRecord

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_FACTORS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)
_SIZES = (1, 2, 4, 8, 16, 32, 64)
_SHARE = 0.2
"""Weight of the newest batch in the average of times."""

_LONGEST_WAIT = 120.0


class ServiceMetrics:
    """Counters, gauges and histograms of one service.

    Raises:
        ImportError: prometheus_client is missing.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        registry = self._registry = CollectorRegistry()
        self.jobs = Counter("stable_audio_jobs", "Ended jobs", ["model", "state"], registry=registry)
        self.refused = Counter(
            "stable_audio_refused", "Requests refused for lack of room", ["status"], registry=registry
        )
        self.restarts = Counter(
            "stable_audio_process_ends", "Processes that died", ["device"], registry=registry
        )
        self.answers = Counter(
            "stable_audio_http_responses", "Answers by status", ["method", "status"], registry=registry
        )
        self.waiting = Gauge("stable_audio_waiting_jobs", "Jobs in the queue", registry=registry)
        self.running = Gauge("stable_audio_running_jobs", "Jobs at work", registry=registry)
        self.ready = Gauge("stable_audio_ready", "Whether requests are served", registry=registry)
        self.memory = Gauge(
            "stable_audio_memory_bytes", "Memory after a batch", ["device", "kind"], registry=registry
        )
        self.queue_seconds = Histogram(
            "stable_audio_queue_seconds", "Time in the queue", buckets=_SECONDS, registry=registry
        )
        self.job_seconds = Histogram(
            "stable_audio_job_seconds",
            "Time from the request to the sound",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "stable_audio_batch_clips", "Clips rendered together", buckets=_SIZES, registry=registry
        )
        self.factor = Histogram(
            "stable_audio_real_time_factor",
            "Seconds of sound per second of a batch",
            ["model"],
            buckets=_FACTORS,
            registry=registry,
        )
        self._seconds_per_clip = 1.0

    def rendered(self, record: JobRecord) -> None:
        """Count a finished sound."""
        self.job_seconds.labels(record.model).observe((record.finished or record.created) - record.created)
        factor = (record.result or {}).get("real_time_factor")
        if factor is not None:
            self.factor.labels(record.model).observe(factor)

    def ended(self, record: JobRecord) -> None:
        """Count an ended job."""
        self.jobs.labels(record.model, record.state).inc()

    def batch_ended(self, device: str, count: int, seconds: float, memory: Mapping[str, int]) -> None:
        """Count a batch."""
        self._seconds_per_clip += _SHARE * (seconds / max(1, count) - self._seconds_per_clip)
        for kind, size in memory.items():
            self.memory.labels(device, kind).set(size)

    def seconds_for(self, clips: float, devices: int) -> float:
        """Whole seconds in which about so many clips will be done, at least one."""
        return max(1.0, min(_LONGEST_WAIT, round(clips * self._seconds_per_clip / max(1, devices))))

    def text(self, *, waiting: int, running: int, ready: bool) -> tuple[bytes, str]:
        """(all figures, their content type)."""
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

        values: Mapping[Any, float] = {self.waiting: waiting, self.running: running, self.ready: ready}
        for gauge, value in values.items():
            gauge.set(value)
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
