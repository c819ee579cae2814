"""A service on a port of this machine, in a process of its own, with a model of milliseconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.inference import tiny

SECONDS_TO_START = 120.0


@dataclass
class RunningService:
    """A service that answers.

    Attributes:
        url: where.
        folder: its folder.
        weights: file of its model.
        config: file of its model's config.
        process: the process that answers.
        log: file with what it says.
    """

    url: str
    folder: Path
    weights: Path
    config: Path
    process: subprocess.Popen[bytes]
    log: Path

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)  # type: ignore[arg-type]

    def workers(self) -> list[int]:
        """Numbers of its processes: that which decodes uploads, then that which renders."""
        children = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            children += [int(number) for number in (task / "children").read_text().split()]
        named = {n: Path(f"/proc/{n}/cmdline").read_bytes() for n in sorted(children)}
        return [number for number, command in named.items() if b"spawn_main" in command]

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def saved_model(folder: Path) -> tuple[Path, Path]:
    """Files of a model, and of its config."""
    folder.mkdir(parents=True, exist_ok=True)
    return tiny.save(folder, tiny.config())


def published_model(folder: Path, config: dict[str, Any]) -> Path:
    """A folder with a model as they are published."""
    weights, file = tiny.save(folder / "parts", config)
    weights.rename(folder / "model.safetensors")
    file.rename(folder / "model_config.json")
    return folder


@contextmanager
def serving(
    folder: Path,
    weights: Path,
    config: Path,
    *flags: str,
    command: str = "serve",
    checkpoints: Sequence[str] = (),
) -> Iterator[RunningService]:
    """Start `stable-audio serve` and wait until it is ready.

    Args:
        command: or another one with the service.
        checkpoints: what is served in place of `weights` and `config`, as the command takes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    models = checkpoints or [f"tiny={weights}", "--model-config", str(config)]
    words = [sys.executable, "-m", "stable_audio", command, *models]
    words += ["--port", "0", "--out", str(folder), "--device", "cpu", *flags]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    with open(log, "ab") as written:
        start = log.stat().st_size
        process = subprocess.Popen(words, stderr=written, stdout=written, env=environment)
    try:
        yield RunningService(_wait(process, log, start), folder, weights, config, process, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], log: Path, start: int) -> str:
    ends = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < ends:
        text = log.read_bytes()[start:].decode()
        assert process.poll() is None, text
        if "listening on " in text:
            url = text.split("listening on ")[1].split(",")[0]
            if httpx.get(f"{url}/ready").status_code == 200:
                return url
        time.sleep(0.05)
    raise AssertionError(f"not ready: {log.read_text()}")
