"""What is asked of a fine-tune."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from stable_audio.adapters import ADAPTER_TYPES
from stable_audio.characters import refuse
from stable_audio.training.errors import TrainingError
from stable_audio.training.finetune.clips import NAME_TEMPLATE
from stable_audio.wording import did_you_mean, flag_of


@dataclass(frozen=True, kw_only=True)
class FinetuneRequest:
    """What to fine-tune, on what, and what is not left to the data to decide.

    Attributes:
        checkpoint: weights of the model: a file, a folder, or a name on the Hugging Face hub.
        data: folder of sounds.
        out: folder of the run.
        adapter: type of the adapter to train; None: the model itself.
        rank: of the adapter; None: see `sizing`.
        steps: optimizer steps; None: see `sizing`.
        batch_size: clips per optimizer step; None: see `sizing`.
        learning_rate: None: see `sizing`.
        seconds: length of the clips that are trained on; None: the model's.
        caption: for sounds without one: a template, or one text for all.
        keep: JSONL file of prompts whose sounds are not to change; None: there is none.
        keep_clips: sounds that the model renders of them before, to train on as well.
        prompts: further prompts to compare before with after.
        cfg_scale: guidance of these comparisons, and of kept sounds; None: that of the model's demos.
        sampling_steps: likewise.
        model_config: model file, where the weights have none beside them.
        device: "auto", "cpu", "cuda", ...
        device_memory: bytes that may be used; None: what is free.
        precision: of training, a name of Lightning, or "auto".
        cache: folder for latents and features of texts; None: `cache` beside `out`.
        num_workers: processes that load data.
        seed: of adapter, order and noise.
        demos: render demos during training.
        overwrite: replace an earlier fine-tune at `out`.
    """

    checkpoint: str
    data: str
    out: str = "runs/finetune"
    adapter: str | None = "lora"
    rank: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    seconds: float | None = None
    caption: str = NAME_TEMPLATE
    keep: str | None = None
    keep_clips: int = 96
    prompts: tuple[str, ...] = ()
    cfg_scale: float | None = None
    sampling_steps: int | None = None
    model_config: str | None = None
    device: str = "auto"
    device_memory: float | None = None
    precision: str = "auto"
    cache: str | None = None
    num_workers: int = 0
    seed: int = 42
    demos: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.adapter is not None and self.adapter not in ADAPTER_TYPES:
            raise TrainingError(
                f"--adapter: found '{self.adapter}'; {did_you_mean(self.adapter, ADAPTER_TYPES)}"
            )
        for name in ("rank", "steps", "batch_size", "learning_rate", "seconds", "device_memory"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                shown = value / 2**30 if name == "device_memory" else value
                raise TrainingError(f"{flag_of(name)} must be above 0 and finite, found {shown:g}")
        for name, least in (("keep_clips", 1), ("sampling_steps", 1), ("num_workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise TrainingError(f"{flag_of(name)} must be at least {least}, found {value}")
        if self.cfg_scale is not None and not math.isfinite(self.cfg_scale):
            raise TrainingError(f"--cfg-scale must be a finite number, found {self.cfg_scale}")
        if self.keep is None and self.keep_clips != FinetuneRequest.keep_clips:
            raise TrainingError(
                "--keep-clips counts the sounds of the prompts in --keep, which is not given; give it, or "
                "leave --keep-clips out"
            )
        if self.rank is not None and self.adapter is None:
            raise TrainingError(
                "--rank belongs to an adapter, but --full trains the model itself; leave one out"
            )
        refuse(self.caption, "--caption")
        if not self.caption.strip():
            raise TrainingError(
                "--caption is empty; give a template with {name} or {folder}, or one text for all sounds"
            )
        for text in self.prompts:
            refuse(text, "--prompt")
        data = Path(self.data).expanduser().absolute()
        for flag, path in (("--data", data), ("--out", self.folder), ("--cache", self.cache_folder)):
            refuse(str(path), flag, "files of the run are to name it; choose another folder")

    @property
    def folder(self) -> Path:
        """The folder of the run, absolute."""
        return Path(self.out).expanduser().absolute()

    @property
    def cache_folder(self) -> Path:
        """The folder of the cache, absolute."""
        return Path(self.cache).expanduser().absolute() if self.cache else self.folder.parent / "cache"

    def with_whole_paths(self) -> FinetuneRequest:
        """The same with absolute paths where files are, so that it holds from every folder."""
        paths = {name: getattr(self, name) for name in ("checkpoint", "data", "keep", "model_config")}
        there = {name: Path(path).expanduser() for name, path in paths.items() if path is not None}
        whole: dict[str, Any] = {name: str(p.absolute()) for name, p in there.items() if p.exists()}
        return replace(self, **whole)

    def deciding(self) -> Mapping[str, Any]:
        """What two requests must have in common to be one."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("overwrite", "device_memory")
        }
