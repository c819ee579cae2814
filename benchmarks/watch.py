"""How soon the page of runs answers: 100 runs of 100,000 steps each, unless told otherwise.

    python benchmarks/watch.py [--runs 100] [--steps 100000] [--folder FOLDER]

Makes the runs in FOLDER (a temporary one otherwise) and prints, for a server on this machine: the time to the
first list of all runs, to the curves of one run, until every row of every run has been read, and of a later
list when one run has grown by a line. The files are in the page cache, since they were just written.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np

from stable_audio.interface.watch.server import open_server

COLUMNS = (
    "train/grad_norm",
    "train/loss",
    "train/mse_loss",
    "train/std_data",
    *(f"model/loss_all_0.{level}" for level in range(10)),
    "train/lr",
    "speed/steps_per_second",
    "speed/audio_seconds_per_second",
    "speed/data_wait_share",
    "val/avg_loss",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        size = make_runs(folder, args.runs, args.steps)
        print(f"{args.runs} runs of {args.steps:,} steps, {len(COLUMNS)} columns, {size / 1e9:.2f} GB")
        for name, seconds in measured(folder):
            print(f"{name:<36}  {seconds:6.2f} s", flush=True)


def make_runs(folder: Path, runs: int, steps: int) -> int:
    """Write the folders of runs, as training does; returns the bytes of their metrics."""
    values = np.random.default_rng(0).lognormal(size=(steps, len(COLUMNS) - 1)).astype(np.float32)
    lines = []
    for step, row in enumerate(values, start=1):
        validation = f"{row[0]:.8g}" if step % max(1, steps // 50) == 0 else ""
        lines.append(f"{step},{','.join(f'{value:.8g}' for value in row)},{validation}\r\n")
    text = (f"step,{','.join(COLUMNS)}\r\n" + "".join(lines)).encode()
    for number in range(runs):
        run = folder / f"run_{number:03d}"
        run.mkdir(parents=True, exist_ok=True)
        (run / "metrics.csv").write_bytes(text)
        (run / "run.json").write_text(json.dumps({"starts": [{"options": {"max_steps": steps}}]}))
        (run / "log.txt").write_text("a line of the log\n" * 2000)
    return runs * len(text)


def measured(folder: Path) -> Iterator[tuple[str, float]]:
    """(what, seconds) of a server that has just been started."""
    with serving(folder) as url:
        began = time.perf_counter()
        first = asked(f"{url}api/runs")
        yield "list of all runs", time.perf_counter() - began
        name = first["runs"][-1]["name"]
        again = time.perf_counter()
        own = asked(f"{url}api/run?name={quote(name)}")
        yield "curves of one run, as far as read", time.perf_counter() - again
        while not own["complete"]:
            own = asked(f"{url}api/run?name={quote(name)}")
        yield "curves of one run, read whole", time.perf_counter() - again
        longest, complete = 0.0, first["complete"]
        while not complete:
            again = time.perf_counter()
            complete = asked(f"{url}api/runs")["complete"]
            longest = max(longest, time.perf_counter() - again)
        yield "every row of every run read", time.perf_counter() - began
        yield "longest answer meanwhile", longest
        with open(folder / name / "metrics.csv", "ab") as file:
            file.write(f"{10**6},{','.join('1' * len(COLUMNS))}\r\n".encode())
        again = time.perf_counter()
        asked(f"{url}api/runs")
        yield "list after a line was added", time.perf_counter() - again


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A server in this process; yields its address."""
    with open_server([folder]) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


def asked(address: str) -> dict:
    """The JSON at an address."""
    with urllib.request.urlopen(address) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
