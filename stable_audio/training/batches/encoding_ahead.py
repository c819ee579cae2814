"""The next batch while the one before it trains: its sound is copied and encoded, and its texts are read.

Frozen networks make the same of a batch whenever they see it, and so do the draws of its position in the run
(`draws`); what is made ahead is bit for bit what the step itself would have made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from stable_audio.data.base import Batch
from stable_audio.nn.transfer import to_device

log = logging.getLogger(__name__)

Encode = Callable[[Batch, int], Tensor | None]
"""(batch on the device, its position in the run) -> latents (b c n); None if they cannot be made ahead."""

Read = Callable[[Batch], object]
"""Lets frozen encoders of texts read those of a batch on the device, and keep what they have read."""


@dataclass(frozen=True)
class _Begun:
    """A batch that is on its way.

    Attributes:
        host: its sound as the loader gave it.
        audio: the same on the device.
        position: of the batch in the run.
        latents: its latents, if it was encoded.
    """

    host: Tensor
    audio: Tensor
    position: int
    latents: Tensor | None


class EncodingAhead:
    """Begins the next batch once the present one is prepared, and hands it out when it comes.

    On a GPU it does so on a stream of its own, beside the step: the two share the device, and what the batch
    needs of memory comes on top of what the step needs. Elsewhere it does so at once, and nothing is gained.

    Args:
        upcoming: the batch that comes after the present one, on the host; None if there is none yet.
        encode: encodes its sound.
        read: reads its texts.
    """

    def __init__(self, *, upcoming: Callable[[], Batch | None], encode: Encode, read: Read) -> None:
        self._upcoming, self._encode, self._read = upcoming, encode, read
        self._begun: _Begun | None = None
        self._stream: torch.cuda.Stream | None = None
        self._off = False

    def begin(self, position: int, device: torch.device) -> None:
        """Copy, encode and read the next batch.

        Args:
            position: of that batch in the run.
            device: where the step computes.
        """
        batch = None if self._off else self._upcoming()
        if batch is None:
            return
        with torch.no_grad(), self._beside(device):
            moved = batch._replace(audio=to_device(batch.audio, device))
            latents = self._encode(moved, position)
            self._read(moved)
        self._begun = _Begun(batch.audio, moved.audio, position, latents)

    def on_device(self, host: Tensor) -> Tensor | None:
        """The sound of a batch on the device if the batch was begun, else None. What the device computes next
        waits for it; the host does not.

        Args:
            host: sound of the batch as the loader gave it.
        """
        begun = self._begun
        if begun is None or begun.host is not host:
            return None
        if self._stream is not None:
            present = torch.cuda.current_stream(begun.audio.device)
            present.wait_stream(self._stream)
            for tensor in (begun.audio, begun.latents):
                if tensor is not None and tensor.is_cuda:
                    tensor.record_stream(present)  # so that it is not written anew while a step reads it
        return begun.audio

    def take(self, audio: Tensor, position: int) -> Tensor | None:
        """The latents of a batch, if they were made ahead.

        Args:
            audio: its sound on the device.
            position: of the batch in the run.
        """
        begun, self._begun = self._begun, None
        if begun is None:
            return None
        if begun.audio is audio and begun.position == position:
            return begun.latents
        log.warning("encode_ahead: another batch came than the one that was begun; none is begun any more")
        self._off = True
        return None

    def forget(self) -> None:
        """Leave what was begun: another batch comes next."""
        self._begun = None

    @contextmanager
    def _beside(self, device: torch.device) -> Iterator[None]:
        if device.type != "cuda":
            yield
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        # After the weights are in place, and not beside the step before, which needs its memory.
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            yield
