"""What a run writes into its folder at its start: its config files, command, versions, host, and a log."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import shlex
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from stable_audio.adapters.passport import config_hash
from stable_audio.audio.atomic import atomic_write
from stable_audio.training.options import RunOptions
from stable_audio.training.record.changed_start import name_changed_files, name_changed_options
from stable_audio.training.record.run_record import RunRecord
from stable_audio.training.record.surroundings import git_state, machine

log = logging.getLogger(__name__)

PACKAGES = ("stable-audio", "torch", "lightning", "numpy", "transformers", "safetensors", "torchao")


def record_run(
    record: RunRecord,
    options: RunOptions,
    files: Mapping[str, Mapping[str, Any] | None],
    *,
    processes: int,
    resumed_from: Path | None,
    machines: Sequence[Mapping[str, Any]] = (),
    transforms: Sequence[Mapping[str, Any]] = (),
    frozen: Sequence[str] = (),
) -> None:
    """Write the config and dataset files of a run and an entry about its start; failures are logged.

    Args:
        record: gets the entry.
        machines: those of the processes, as `machines_of` gives them; empty: all are on this one.
        files: name without suffix -> content; None: not used.
        transforms: what was done to the model before its training, in order.
        frozen: parts of the model that are not trained.
    """
    try:
        if resumed_from is not None and record.enabled:
            name_changed_options(record.content["starts"], asdict(options), processes=processes)
            datasets = {name: content for name, content in files.items() if name != "model"}
            name_changed_files(options.folder, datasets)
        for name, content in files.items():
            if content is not None:
                _write(options.folder / f"{name}.json", content)
        config = files.get("model")
        record.started(
            {
                **_start(options, processes, resumed_from, machines, transforms, frozen),
                "config_hash": None if config is None else config_hash(config),
            }
        )
    except (OSError, ValueError, TypeError) as error:
        log.error("the files that describe the run were not written (%s); training continues", error)


def _start(
    options: RunOptions,
    processes: int,
    resumed_from: Path | None,
    machines: Sequence[Mapping[str, Any]],
    transforms: Sequence[Mapping[str, Any]],
    frozen: Sequence[str],
) -> dict[str, Any]:
    host = socket.gethostname()
    machines = list(machines) or [{"host": host, "processes": processes, **machine()}]
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "folder": str(Path.cwd()),
        "host": host,
        "process": os.getpid(),
        "processes": processes,
        "machine": {key: value for key, value in machines[0].items() if key not in ("host", "processes")},
        "machines": machines,
        "git": git_state(Path(__file__).parent),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "resumed_from": None if resumed_from is None else str(resumed_from),
        "transforms": list(transforms),
        "frozen": list(frozen),
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions(),
        "options": asdict(options),
    }


def versions() -> dict[str, str]:
    """Versions of the installed packages on which results depend, by name."""
    return {name: v for name in PACKAGES if (v := _version(name)) is not None}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


class _LogFile(logging.FileHandler):
    """A log file that ignores errors of writing, such as a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        """Write what is left of lines that found no room, where there is some now."""
        with suppress(OSError):
            super().close()


class EarlyLog(logging.Handler):
    """Keeps the log records of the package until the folder of the run can hold a log."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def __enter__(self) -> EarlyLog:
        logging.getLogger("stable_audio").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("stable_audio").removeHandler(self)


@contextmanager
def logged_to(folder: Path, rank: int, early: EarlyLog | None = None) -> Iterator[None]:
    """Also write the log of the package to `log.txt`, of other processes to `log.RANK.txt`, in this context.

    An exception is written with its traceback.

    Args:
        folder: folder of the run.
        rank: number of this process.
        early: earlier log records, which are written first.
    """
    name = "log.txt" if rank == 0 else f"log.{rank}.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(folder / name, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        log.error("%s cannot be written (%s); training continues", folder / name, error)
        yield
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for record in early.records if early is not None else ():
        handler.handle(record)
    package = logging.getLogger("stable_audio")
    package.addHandler(handler)
    try:
        yield
    except BaseException:
        text = traceback.format_exc()
        handler.emit(logging.makeLogRecord({"name": "run", "levelname": "ERROR", "msg": text}))
        raise
    finally:
        package.removeHandler(handler)
        handler.close()
