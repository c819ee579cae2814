"""The train command in processes of its own, as a launcher starts them, and what kills them.

They are forked from a server that has imported everything once, which takes longer than their steps.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from tests.training.worlds import free_port, launched

NAME = "run"
MOST_SECONDS = 300.0
"""Time after which a start counts as one that hangs."""

FLAGS = ["--recover", "--accelerator", "cpu", "--global-batch-size", "4", "--no-progress"]
# Something is written all the time: at every third and fourth step, and each second and a half.
FLAGS += ["--checkpoint-every", "3", "--keep", "3", "--checkpoint-minutes", "0.025", "--val-every", "4"]
FLAGS += ["--dead-after", "15"]


class Setting(NamedTuple):
    """How a run trains and what its checkpoints are."""

    processes: int
    strategy: str
    checkpoints: str
    precision: str = "32"
    """Named, since runs that are compared may each measure something else for `auto`."""

    def __str__(self) -> str:
        return f"{self.processes} x {self.strategy}, {self.checkpoints}, {self.precision}"


class Started:
    """The processes of one start of a run, which are killed when the context ends.

    Attributes:
        trains: whether it has trained a step, and so all processes have met.
        rows: what it writes.
        processes: by rank.
    """

    def __init__(self, setting: Setting, folder: Path, files: Path, *, steps: int) -> None:
        self.rows = Rows(folder / NAME / "metrics.csv")
        self.began, self._stamps = time.monotonic(), [self.rows.stamp()]
        command = ["train", *FLAGS, "--max-steps", str(steps)]
        for flag, name in (("model", "model"), ("dataset", "data"), ("val-dataset", "validation")):
            command += [f"--{flag}-config", str(files / f"{name}.json")]
        command += ["--save-dir", str(folder), "--name", NAME, "--num-workers", str(2 - setting.processes)]
        command += ["--strategy", setting.strategy, "--checkpoint-format", setting.checkpoints]
        command += ["--precision", setting.precision]
        port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("start_*_0.txt")))
        self.logs = [folder / f"start_{number:02d}_{rank}.txt" for rank in range(setting.processes)]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["stable_audio.training.trainer", "stable_audio.cli.train"])
        self.processes: list[BaseProcess] = []
        for rank, path in enumerate(self.logs):
            alone = setting.processes == 1
            environment = {} if alone else launched(rank, setting.processes, port)
            self.processes.append(context.Process(target=_train, args=(command, environment, str(path))))
            self.processes[-1].start()

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    @property
    def trains(self) -> bool:
        # The first change may be that of a start which removes the rows after its checkpoint.
        return len(self._stamps) > 2

    @property
    def ended(self) -> bool:
        return not any(process.is_alive() for process in self.processes)

    def wait(self, seconds: float, *, until_it_trains: bool = False) -> bool:
        """Wait until all of them have ended, or the time is over; returns whether some go on."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.ended and not (until_it_trains and self.trains):
            if (stamp := self.rows.stamp()) != self._stamps[-1]:
                self._stamps.append(stamp)
            time.sleep(0.005)
        return not self.ended

    def kill(self, chosen: Sequence[BaseProcess]) -> str:
        """Kill some of the processes; returns what is wrong if the others do not end by themselves."""
        for process in chosen:
            process.kill()
        if self.wait(MOST_SECONDS):
            return f"a process went on for {MOST_SECONDS:g} s after another one was killed"
        return ""

    def failure(self) -> str:
        """Wait for the end; returns why they have not trained that far, or ""."""
        if self.wait(MOST_SECONDS):
            return f"a start has not ended in {MOST_SECONDS:g} s: {self._told()}"
        statuses = [process.exitcode for process in self.processes]
        return f"a start has ended with {statuses}: {self._told()}" if any(statuses) else ""

    def _told(self) -> list[str]:
        """The last line of each process."""
        lines = [log.read_text(errors="replace").strip().splitlines() for log in self.logs]
        return [last[-1] if last else "" for last in lines]


class Rows:
    """The rows of metrics that a run writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> tuple[int, int]:
        """Another value after each change."""
        try:
            state = self.path.stat()
        except FileNotFoundError:
            return (0, 0)
        return state.st_mtime_ns, state.st_size

    def last_step(self) -> int:
        try:
            with open(self.path, newline="") as file:
                steps = [row["step"] for row in csv.DictReader(file)]
        except FileNotFoundError:
            return 0
        return int(steps[-1]) if steps and steps[-1].isdigit() else 0


def _train(command: list[str], environment: dict[str, str], log: str) -> None:
    """What a process does: the command, whose words go to the file `log`."""
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    import torch

    from stable_audio.cli import main

    torch.set_num_threads(1)
    sys.exit(main(command))
