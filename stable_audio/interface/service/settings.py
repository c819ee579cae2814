"""Settings of the service: which models it serves, where, and how much of it a client can have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stable_audio.inference.precision import QUANTISED
from stable_audio.wording import flag_of

_MAY_BE_ZERO = ("batch_size", "batch_wait", "client_queue", "uploads", "results")
"""Limits that can be 0; the others are above it."""

_FLAGS = {"uploads": "keep_uploads", "results": "keep_results"}
"""Limits that the command line calls otherwise."""

_WITHOUT_FLAG = ("connections", "body_seconds", "read_seconds")
"""Limits that the command line does not offer."""


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model to serve.

    Attributes:
        name: its name in requests.
        checkpoint: as for `load_render_model`.
        loading: its keywords for this model alone, such as the model file.
    """

    name: str
    checkpoint: str
    loading: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """How a process renders.

    Attributes:
        device: where it renders.
        loading: keywords of `load_render_model` for every model, such as its dtype.
        matmul_precision: precision of float32 matrix products on a GPU.
        chunked_decode: decode in pieces, in constant memory.
        resident: models in memory at once; 0 = all.
        any_base: accept adapters that were trained on another model.
    """

    device: str = "cpu"
    loading: Mapping[str, Any] = field(default_factory=dict)
    matmul_precision: str = "high"
    chunked_decode: bool = False
    resident: int = 0
    any_base: bool = False

    def __post_init__(self) -> None:
        if self.resident < 0:
            raise ValueError(f"--resident must be at least 0, which is all models, found {self.resident}")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a request, a client and all of them together can have.

    Attributes:
        max_seconds: length of a clip.
        max_steps: sampling steps of a clip.
        batch_size: clips rendered at once; 0 = 16 on a GPU, else 4.
        batch_wait: seconds for which an idle device waits for more clips that go with the first one.
        queue: waiting jobs of all clients; more are refused with 503.
        client_queue: waiting jobs of one client; more are refused with 429. 0 = half of the queue.
        deadline: seconds within which a job must be done, unless it asks for less.
        upload_megabytes: size of an uploaded file.
        upload_seconds: length of its sound.
        decode_seconds: time that decoding it may take.
        uploads: uploads that are kept; the oldest are removed.
        results: finished jobs that are kept; the oldest that are not starred are removed.
        connections: requests being answered at once; more are refused with 503.
        body_seconds: time within which a request must have arrived whole.
        read_seconds: time within which a client must take each piece of an answer, some 64 kB.
    """

    max_seconds: float = 600.0
    max_steps: int = 1000
    batch_size: int = 0
    batch_wait: float = 0.02
    queue: int = 512
    client_queue: int = 0
    deadline: float = 600.0
    upload_megabytes: float = 64.0
    upload_seconds: float = 600.0
    decode_seconds: float = 30.0
    uploads: int = 1000
    results: int = 1000
    connections: int = 2000
    body_seconds: float = 60.0
    read_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            shown = name if name in _WITHOUT_FLAG else flag_of(_FLAGS.get(name, name))
            if not 0 <= value < math.inf:
                raise ValueError(f"{shown} must be a finite number of at least 0, found {value}")
            if value == 0 and name not in _MAY_BE_ZERO:
                raise ValueError(f"{shown} must be above 0, found {value}")

    @property
    def of_client(self) -> int:
        """Waiting jobs that one client can have."""
        return self.client_queue or max(1, self.queue // 2)


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who is answered.

    Attributes:
        tokens: name of a client -> its bearer token; empty: everyone, without a token.
        origins: pages of other sites that may call from a browser, such as "https://example.org".
        hosts: names under which the service is called; empty: any. A page elsewhere cannot reach a service
            that knows its names by giving its own name the address of this machine.
    """

    tokens: Mapping[str, str] = field(default_factory=dict)
    origins: Sequence[str] = ()
    hosts: Sequence[str] = ()

    def __post_init__(self) -> None:
        for origin in self.origins:
            parts = urlsplit(origin)
            if not parts.netloc or origin not in (f"http://{parts.netloc}", f"https://{parts.netloc}"):
                raise ValueError(
                    f"--cors-origin is a site without a path, such as https://example.org; found '{origin}'"
                )


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """All settings of a service.

    Attributes:
        models: the models; the first is that of requests without a name.
        folder: where jobs, results and uploads are kept.
        devices: one process for each.
        adapters: name in requests -> file or run of an adapter.
        worker: how processes render; `device` is that of each.
        limits: how much clients can have.
        access: who is answered.
        drain_seconds: time that running jobs have to finish when the service is told to stop.
    """

    models: Sequence[ModelSource]
    folder: Path
    devices: Sequence[str] = ("cpu",)
    adapters: Mapping[str, str] = field(default_factory=dict)
    worker: WorkerOptions = field(default_factory=WorkerOptions)
    limits: Limits = Limits()
    access: Access = Access()
    drain_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not 0 <= self.drain_seconds < math.inf:
            raise ValueError(f"--drain-seconds must be a number of at least 0, found {self.drain_seconds}")
        names = [model.name for model in self.models]
        if not names:
            raise ValueError("no model to serve: name at least one checkpoint")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"several models are called {', '.join(twice)}: name them, as NAME=CHECKPOINT")
        if self.adapters and (dtype := self.worker.loading.get("dtype")) in QUANTISED:
            raise ValueError(
                f"{dtype} weights take no adapters; write these into a model file with `stable-audio adapter "
                "merge`, and serve that one"
            )
