"""What the service and the processes that render say to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stable_audio.inference.rendering.recipe import InputFile
from stable_audio.interface.service.sounds import StoredSound


@dataclass(frozen=True)
class RenderItem:
    """One clip to render.

    Attributes:
        id: of its job.
        line: as for `prepared`.
        sounds: those that it names.
    """

    id: str
    line: Mapping[str, Any]
    sounds: Mapping[str, StoredSound] = field(default_factory=dict)


@dataclass(frozen=True)
class RenderBatch:
    """Clips to render together.

    Attributes:
        number: of the batch, which every message about it repeats.
        model: name of the model.
        items: the clips.
    """

    number: int
    model: str
    items: Sequence[RenderItem]


@dataclass(frozen=True)
class CancelBatch:
    """Stop a batch at its next step."""

    number: int


@dataclass(frozen=True)
class StopWorker:
    """End the process, once it has nothing to do."""


@dataclass(frozen=True)
class ModelLoaded:
    """A model can be used.

    Attributes:
        name: of the model.
        config: its configuration.
        checkpoint: as in `RenderModel`, as are the three that follow.
        pretransform: file of the autoencoder's weights.
        use_ema: whether the averaged weights were loaded.
        dtype: type of the backbone's weights.
        adapters: those that fit it.
        seconds: that loading took.
    """

    name: str
    config: Mapping[str, Any]
    checkpoint: InputFile
    pretransform: InputFile | None
    use_ema: bool
    dtype: str
    adapters: Sequence[str]
    seconds: float


@dataclass(frozen=True)
class ModelUnusable:
    """A model cannot be loaded.

    Attributes:
        name: of the model.
        reason: one sentence.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class WorkerReady:
    """All models have been tried."""


@dataclass(frozen=True)
class BatchStep:
    """A sampling step of a batch is done.

    Attributes:
        number: of the batch.
        step: from 1.
        steps: in all.
    """

    number: int
    step: int
    steps: int


@dataclass(frozen=True)
class ClipDone:
    """The files of a clip are in place.

    Attributes:
        number: of the batch.
        id: of the job.
        result: figures of the sound, as the JSON beside a rendered file has them.
    """

    number: int
    id: str
    result: Mapping[str, Any]


@dataclass(frozen=True)
class ClipFailed:
    """A clip was not rendered.

    Attributes:
        number: of the batch.
        id: of the job.
        reason: one sentence.
        status: of HTTP.
    """

    number: int
    id: str
    reason: str
    status: int


@dataclass(frozen=True)
class BatchDone:
    """Nothing more comes of a batch, whose clips are done, failed, or were cancelled."""

    number: int


@dataclass(frozen=True)
class BatchSampled:
    """The device has rendered a batch and can begin another; its files are being written.

    Attributes:
        number: of the batch.
        memory: bytes by kind: `resident` of the process; on a GPU `allocated`, `reserved` and `total`.
        model_seconds: that loading its model took; 0 = it was loaded.
    """

    number: int
    memory: Mapping[str, int]
    model_seconds: float = 0.0
