"""Jobs that have not ended, and those who wait for news of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from stable_audio.interface.service.messages import RenderItem
from stable_audio.interface.service.records import JobRecord
from stable_audio.interface.service.sounds import StoredSound


@dataclass
class ActiveJob:
    """A job in the queue or at work.

    Attributes:
        record: the job.
        sounds: those that its request names.
        expiry: gives it up at its deadline.
        version: counts what has happened to it.
    """

    record: JobRecord
    sounds: Mapping[str, StoredSound] = field(default_factory=dict)
    expiry: asyncio.TimerHandle | None = None
    version: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def item(self) -> RenderItem:
        """As the processes need it."""
        return RenderItem(self.record.id, self.record.line, self.sounds)

    def tell(self) -> None:
        """Wake those who wait for news."""
        self.version += 1
        self._news.set()
        self._news = asyncio.Event()

    async def news(self, version: int, seconds: float) -> bool:
        """Wait until something has happened since `version`; False if nothing did within `seconds`."""
        if self.version != version:
            return True
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    async def end(self) -> JobRecord:
        """Wait until it has ended."""
        while not self.record.ended:
            await self._news.wait()
        return self.record
