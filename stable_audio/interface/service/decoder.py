"""The service's end of the process that decodes uploads."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
from typing import Any

from stable_audio.audio.errors import DiskFullError
from stable_audio.interface.service.decoding import DecodedSound, DecodeRequest, run_decoder
from stable_audio.interface.service.errors import ServiceError, no_store
from stable_audio.interface.service.process import ending

log = logging.getLogger(__name__)

_STARTS_WITHIN = 120.0
_ENDS_WITHIN = 1.0


class SoundDecoder:
    """Decodes one upload after the other in a process with limits, which is replaced when it ends.

    Args:
        seconds: that a file may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = asyncio.Lock()
        self._process: Any = None
        self._connection: Any = None
        self._fresh = True

    def start(self) -> None:
        """Start the process, so that the first upload need not wait for it."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        level = logging.getLogger().getEffectiveLevel()
        process = context.Process(target=run_decoder, args=(theirs, level), daemon=True)
        process.start()
        theirs.close()
        self._process, self._connection, self._fresh = process, ours, True

    async def decode(self, request: DecodeRequest) -> DecodedSound:
        """Decode a file.

        Raises:
            ServiceError: it is no sound, or decoding it took too long or ended the process.
        """
        # Whoever gives up waiting leaves the answer to be received, or the next one would get it.
        return await asyncio.shield(asyncio.ensure_future(self._in_turn(request)))

    async def _in_turn(self, request: DecodeRequest) -> DecodedSound:
        async with self._lock:
            if self._process is None or not self._process.is_alive():
                self.stop()
                self.start()
            process = self._process
            try:
                return await asyncio.to_thread(self._exchange, request)
            except (EOFError, OSError) as error:
                process.join(_ENDS_WITHIN)
                self.stop()
                self.start()  # for the next one, which need not wait for it then
                raise ServiceError(
                    422, f"the sound cannot be decoded: the process that tried {ending(process.exitcode)}"
                ) from error

    def _exchange(self, request: DecodeRequest) -> DecodedSound:
        if self._fresh:
            if not self._connection.poll(_STARTS_WITHIN):
                self.stop()
                raise ServiceError(503, "uploads cannot be decoded at the moment", retry_after=30)
            self._connection.recv()
            self._fresh = False
        self._connection.send(request)
        if not self._connection.poll(self._seconds):
            self.stop()
            raise ServiceError(422, f"the sound cannot be decoded within {self._seconds:g} s")
        answer = self._connection.recv()
        if isinstance(answer, DecodedSound):
            return answer
        if isinstance(answer, DiskFullError):
            raise no_store("uploads")
        raise ServiceError(422, f"the sound cannot be decoded: {answer}")

    def stop(self) -> None:
        """End the process; the next upload starts another one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
        self._process = self._connection = None
