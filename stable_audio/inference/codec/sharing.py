"""Encoding a source by several processes, each with a device of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.multiprocessing

from stable_audio.data.latents import read_manifest
from stable_audio.inference.codec.encode import encode_to_folder, finish_manifest
from stable_audio.inference.codec.latents import EncodeOptions
from stable_audio.inference.codec.load import Codec, load_codec
from stable_audio.inference.codec.sources import parts_of, sound_parts


@dataclass(frozen=True, kw_only=True)
class EncodeJob:
    """What to encode, with what and whereto; every process that shares it loads the codec by itself.

    Attributes:
        source: folder of sound files, or a dataset file.
        folder: folder for the latents.
        model_config: see `load_codec`.
        ckpt_path: see `load_codec`.
        allow_untrained: see `load_codec`.
        lenient: see `load_codec`.
        crop: samples to cut files into; None: each file whole.
        options: how latents are made.
    """

    source: str
    folder: str
    model_config: str | None = None
    ckpt_path: str | None = None
    allow_untrained: bool = False
    lenient: bool = False
    crop: int | None = None
    options: EncodeOptions = field(default_factory=EncodeOptions)

    def codec(self, device: torch.device | str) -> Codec:
        """The pretransform on `device`."""
        return load_codec(
            model_config=self.model_config,
            ckpt_path=self.ckpt_path,
            device=device,
            allow_untrained=self.allow_untrained,
            lenient=self.lenient,
        )

    def encode(
        self,
        device: torch.device | str,
        *,
        rank: int = 0,
        world_size: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Any]:
        """Encode the share of one process, and return the manifest; see `encode_to_folder`.

        Args:
            rank: number of this process among those that share the job.
        """
        codec = self.codec(device)
        return encode_to_folder(
            codec.pretransform,
            sound_parts(self.source, codec, crop=self.crop),
            self.folder,
            sample_rate=codec.sample_rate,
            options=dataclasses.replace(self.options, rank=rank, world_size=world_size),
            settings={
                "autoencoder": codec.source,
                "sample_size": codec.sample_size,
                "crop": self.crop,
            },
            progress=progress,
        )

    def finish(self) -> dict[str, Any]:
        """The manifest after all processes are done, which need no codec for it: the folder tells its shape.

        Raises:
            DataError: the folder has no manifest, since no process came as far as that.
        """
        manifest = read_manifest(self.folder)
        parts = parts_of(
            self.source,
            sample_rate=manifest["sample_rate"],
            sample_size=self.crop or manifest["sample_size"],
            audio_channels=manifest["audio_channels"],
            downsampling_ratio=manifest["downsampling_ratio"],
            crop=self.crop,
        )
        return finish_manifest(self.folder, [part.name for part in parts.parts])


def run_processes(work: Callable[[int], None], count: int) -> int:
    """Run `work(rank)` in `count` new processes of this machine, and wait until all have ended.

    When one fails, the others are ended and keep what they have finished; a signal that ends this process
    ends them in the same way.

    Returns:
        exit status of the process that failed; 0: none did.
    """
    try:
        others = torch.multiprocessing.spawn(_called, args=(work,), nprocs=count, join=False)
        _wait(others)
    except torch.multiprocessing.ProcessExitedException as error:
        return error.exit_code if error.exit_code > 0 else 128 - error.exit_code
    return 0


def _called(rank: int, work: Callable[[int], None]) -> None:
    work(rank)


def _wait(others: Any) -> None:
    try:
        while not others.join():
            pass
    except KeyboardInterrupt:
        for process in others.processes:
            if process.is_alive():
                process.terminate()
        for process in others.processes:
            process.join()
        raise
