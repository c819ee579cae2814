"""Jobs as the service knows them."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED: tuple[JobState, ...] = ("done", "failed", "cancelled")


def new_id() -> str:
    """An identifier that nobody can guess."""
    return uuid.uuid4().hex


@dataclass
class JobRecord:
    """One clip that a client asked for.

    Attributes:
        id: identifier of the job and of its result.
        model: name of the model.
        line: the request, with the keys of a line of `stable-audio generate --prompts` and its seed.
        owner: client that may see it; "" = every client.
        client: client for fairness.
        waits: whether its client waits for the sound; otherwise it asks for it later.
        format: of the sound, unless another one is asked for.
        subtype: sample format of the sound.
        deadline: time (of time.time()) at which it is given up.
        created: time at which it was asked for.
        started: time at which its batch began.
        finished: time at which it ended.
        state: where it is.
        error: why it failed.
        status: of HTTP that goes with the error.
        attempts: how often a process began it.
        step: sampling steps done.
        steps: sampling steps in all.
        result: figures of the sound: seconds, sample_rate, channels, samples, peak, clipped, ...
        recipe: what determines the sound, see `Recipe`, with names in place of paths.
        digest: of the recipe.
        starred: marked by the client, and kept.
        title: given by the client; "" = the first text of the conditioning.
        seconds: length of the clip.
    """

    id: str
    model: str
    line: dict[str, Any]
    owner: str = ""
    client: str = ""
    waits: bool = False
    format: str = "wav"
    subtype: str | None = None
    deadline: float = 0.0
    created: float = field(default_factory=time.time)
    started: float | None = None
    finished: float | None = None
    state: JobState = "queued"
    error: str | None = None
    status: int = 500
    attempts: int = 0
    step: int = 0
    steps: int = 0
    result: dict[str, Any] | None = None
    recipe: dict[str, Any] | None = None
    digest: str = ""
    starred: bool = False
    title: str = ""
    seconds: float = 0.0

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def end(self, state: JobState, *, error: str | None = None, status: int = 500) -> None:
        """Write down how it ends, now."""
        self.state, self.error, self.status, self.finished = state, error, status, time.time()

    def wait_again(self) -> None:
        """Put it back to where it was before its batch began."""
        self.state, self.started, self.step = "queued", None, 0


@dataclass(frozen=True)
class UploadRecord:
    """A sound that a client sent, decoded.

    Attributes:
        id: its name in requests.
        owner: client that may use it; "" = every client.
        name: name of the file at the client, for showing it only.
        digest: of the file as it was sent, see `file_digest`.
        created: time at which it came.
        seconds: length.
        sample_rate: in Hz.
        channels: number of channels.
    """

    id: str
    owner: str
    name: str
    digest: str
    created: float
    seconds: float
    sample_rate: int
    channels: int
