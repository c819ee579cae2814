"""Loggers for the scalars, sounds and pictures of a run."""

from __future__ import annotations

import csv
import importlib.util
import io
import itertools
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from stable_audio.audio.atomic import atomic_write
from stable_audio.training.record.guarded_logger import GuardedLogger
from stable_audio.training.record.run_logger import RunLogger
from stable_audio.wording import plural

log = logging.getLogger(__name__)


class CSVLogger(RunLogger):
    """`metrics.csv` in the run's folder: one row per logged step, with a column per scalar.

    Further scalars of the last logged step, such as those of validation, are added to its row. Only that row
    is in memory; the earlier ones are in the file, which is copied when a new column appears.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.path = self.folder / "metrics.csv"
        self._columns = ["step"]
        self._last: dict[str, str] = {}
        self._last_at = self._end = 0
        self._damaged = 0
        resumes = self.resumed_at > 0 and self.path.is_file()
        if resumes:
            self._columns = self._header()
        self._rewrite(self._rows(self.resumed_at) if resumes else ())
        if self._damaged:
            log.warning("%s: %s damaged and removed", self.path, plural(self._damaged, "line", "were"))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        row = {"step": str(step), **{k: f"{v:.8g}" for k, v in values.items()}}
        same_step = self._last.get("step") == row["step"]
        row = {**self._last, **row} if same_step else row
        new = [k for k in row if k not in self._columns]
        if new or not self.path.is_file():
            before = self._rows(step - 1)
            self._columns = [*self._columns, *new]
            self._rewrite(itertools.chain(before, [row]))
            return
        begin, line = self._last_at if same_step else self._end, self._line(row)
        with open(self.path, "rb+") as file:
            file.seek(begin)
            file.write(line)
            file.truncate()
        # Not before, so that the next write overwrites what a failed one has left behind.
        self._last, self._last_at, self._end = row, begin, begin + len(line)

    def rewind(self, step: int) -> None:
        self._last = {}
        self._rewrite(self._rows(step))

    def _rows(self, last_step: int) -> Iterator[dict[str, str]]:
        """The rows of the file up to a step, one by one."""
        if not self.path.is_file():
            return
        self._damaged = 0
        with open(self.path, "rb") as file:
            lines = self._text(file)
            columns = _names(lines)
            for line in lines:
                cells = line.rstrip("\r\n").split(",")
                if len(cells) != len(columns) or not _is_row(cells):
                    self._damaged += 1
                elif int(cells[0]) <= last_step:
                    yield dict(zip(columns, cells))

    def _header(self) -> list[str]:
        """The columns of the file. A file that is not ours is renamed."""
        with open(self.path, "rb") as file:
            columns = _names(self._text(file))
        if columns[:1] == ["step"]:
            return columns
        aside = self.path.with_suffix(".damaged.csv")
        os.replace(self.path, aside)
        log.warning("%s has no column 'step' and is now %s; a new one begins", self.path, aside)
        return self._columns

    def _text(self, file: BinaryIO) -> Iterator[str]:
        """The lines of the file, without those that a crash has filled with zeros or cut in the middle."""
        for line in file:
            if b"\0" in line or not line.endswith(b"\n"):
                self._damaged += 1
            else:
                yield line.decode("utf-8", errors="replace")

    def _rewrite(self, rows: Iterable[dict[str, str]]) -> None:
        last, begin = self._last, self._last_at
        with atomic_write(self.path) as temporary, open(temporary, "wb") as file:
            file.write(self._line({name: name for name in self._columns}))
            for row in rows:
                last, begin = row, file.tell()
                file.write(self._line(row))
            end = file.tell()
        self._last, self._last_at, self._end = last, begin, end

    def _line(self, row: Mapping[str, str]) -> bytes:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns).writerow(row)
        return text.getvalue().encode()


def _names(lines: Iterator[str]) -> list[str]:
    """The names in the first of the lines; none if a crash has damaged it."""
    try:
        return next(csv.reader(lines), [])
    except csv.Error:
        return []


def _is_row(cells: Sequence[str]) -> bool:
    """Whether the step is a whole number, and every other cell a number or nothing."""
    number = re.compile(r"([-+]?(nan|inf|[\d.]+(e[-+]?\d+)?))?")
    return bool(re.fullmatch(r"\d+", cells[0])) and all(number.fullmatch(cell) for cell in cells)


class TensorBoardLogger(RunLogger):
    """Event files in `tensorboard/`: scalars, sounds and pictures."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        try:
            self._writer = self._new_writer(self.resumed_at)
        except ImportError as error:
            raise ImportError('--logger tensorboard needs: pip install "stable-audio[train]"') from error

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def audio(self, name: str, audio: Tensor, sample_rate: int, step: int, *, caption: str = "") -> None:
        # TensorBoard plays one channel.
        self._writer.add_audio(name, audio.mean(0, keepdim=True).clamp(-1, 1).cpu(), step, sample_rate)

    def image(self, name: str, path: Path, step: int) -> None:
        self._writer.add_image(name, _pixels(path), step, dataformats="HWC")

    def rewind(self, step: int) -> None:
        self._writer.close()
        self._writer = self._new_writer(step)

    def _new_writer(self, resumed_at: int) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        purge = resumed_at + 1 if resumed_at else None
        return SummaryWriter(str(self.folder / "tensorboard"), purge_step=purge)

    def close(self) -> None:
        self._writer.close()


class WandbLogger(RunLogger):
    """Weights & Biases; offline with WANDB_MODE=offline."""

    @staticmethod
    def check() -> None:
        """Raise ValueError if a run could not log in and there is no terminal to type a key."""
        import wandb

        online = os.environ.get("WANDB_MODE", "online") == "online"
        if online and not sys.stdin.isatty() and not wandb.api.api_key:
            raise ValueError(
                "--logger wandb has no API key: run `wandb login`, set WANDB_API_KEY, or keep the run here "
                "with WANDB_MODE=offline"
            )

    def __init__(self, *, config: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        try:
            import wandb
        except ImportError as error:
            raise ImportError('--logger wandb needs: pip install "stable-audio[wandb]"') from error
        self._wandb = wandb
        id_file = self.folder / "wandb_run_id"
        run_id = id_file.read_text() if self.resumed_at and id_file.is_file() else None
        self._run = wandb.init(
            project=self.project,
            name=self.name,
            dir=str(self.folder),
            config=dict(config or {}),
            id=run_id,
            resume="allow" if run_id else None,
        )
        with atomic_write(id_file) as temporary:
            temporary.write_text(self._run.id)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def audio(self, name: str, audio: Tensor, sample_rate: int, step: int, *, caption: str = "") -> None:
        sound = self._wandb.Audio(audio.clamp(-1, 1).cpu().numpy().T, sample_rate, caption=caption)
        self._run.log({name: sound}, step=step)

    def image(self, name: str, path: Path, step: int) -> None:
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        self._run.finish()


class SeveralLoggers(RunLogger):
    """Passes everything on to each of `members`."""

    def __init__(self, members: Sequence[RunLogger]) -> None:
        self.members = tuple(members)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for member in self.members:
            member.scalars(values, step)

    def audio(self, name: str, audio: Tensor, sample_rate: int, step: int, *, caption: str = "") -> None:
        for member in self.members:
            member.audio(name, audio, sample_rate, step, caption=caption)

    def image(self, name: str, path: Path, step: int) -> None:
        for member in self.members:
            member.image(name, path, step)

    def rewind(self, step: int) -> None:
        for member in self.members:
            member.rewind(step)

    def close(self) -> None:
        for member in self.members:
            member.close()


LOGGERS: dict[str, type[RunLogger]] = {
    "none": RunLogger,
    "csv": CSVLogger,
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
}


EXTRAS = {"tensorboard": ("tensorboard", "train"), "wandb": ("wandb", "wandb")}
"""Logger -> the package that it needs, and the extra that installs it."""


def logger_names(names: str) -> list[str]:
    """Split `csv,tensorboard` into names; an empty text is `none`.

    Raises:
        ValueError: an unknown name.
        ImportError: an extra is missing; the message names it.
    """
    parts = [n.strip() for n in names.split(",") if n.strip()] or ["none"]
    unknown = [n for n in parts if n not in LOGGERS]
    if unknown:
        raise ValueError(f"--logger {unknown[0]!r} is unknown; allowed: {', '.join(LOGGERS)}")
    for name in parts:
        package, extra = EXTRAS.get(name, ("csv", ""))
        if importlib.util.find_spec(package) is None:
            raise ImportError(f'--logger {name} needs: pip install "stable-audio[{extra}]"')
    return parts


def check_loggers(names: str) -> None:
    """Raise at once the errors that `create_logger` would raise after minutes of reading files.

    Raises:
        ValueError: an unknown name, or Weights & Biases without a key.
        ImportError: an extra is missing.
    """
    if "wandb" in logger_names(names):
        WandbLogger.check()


def create_logger(names: str, **options: Any) -> RunLogger:
    """One logger, or several by names with commas between: `csv,tensorboard`.

    Raises:
        ValueError: an unknown name.
        ImportError: an extra is missing; the message names it.
    """
    parts = logger_names(names)
    os.makedirs(options["folder"], exist_ok=True)
    return SeveralLoggers([GuardedLogger(LOGGERS[n](**options)) for n in parts])


def _pixels(path: Path) -> Any:
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
