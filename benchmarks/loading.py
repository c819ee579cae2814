"""Loading a model, and starting a run from its file: without weights at first, and over random ones.

python benchmarks/loading.py [--dim 1536 --depth 24 --heads 24]

Each way runs in a process of its own, on a file that was just written, so that the disk plays no part. Memory
is what the process itself holds at the end and at its peak beyond what it held before (on Linux), without
pages of the file. A run needs its weights in memory of its own, whatever happens to the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import add_model_arguments, describe_machine, new_parser, print_table

from stable_audio.checkpoints import export, load_model, load_pretrained
from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.training.options import RunOptions
from stable_audio.training.starting.start import starting_model


def load_over_random(file: Path) -> torch.nn.Module:
    model = create_model_from_config(config_in(file))
    load_pretrained(model, file)
    return model


def start_run(file: Path) -> torch.nn.Module:
    return starting_model(load_config(config_in(file)), RunOptions(pretrained_ckpt_path=str(file))).model


WAYS: dict[str, Callable[[Path], torch.nn.Module]] = {
    "model, without weights": lambda file: load_model(file)[0],
    "model, over random weights": load_over_random,
    "run, without weights": start_run,
    "run, over random weights": load_over_random,
}


def main() -> None:
    parser = new_parser(__doc__)
    add_model_arguments(parser)
    parser.add_argument("--file", type=Path, help="measure one way on this file (used by the script itself)")
    parser.add_argument("--way", choices=WAYS, default=next(iter(WAYS)))
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.file is not None:
        print(json.dumps(measure(args.file, args.way)))
        return
    print(describe_machine("cpu", "float32"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        config = config_of(args)
        export(create_model_from_config(config), file, config=config)
        print(f"a file of {file.stat().st_size / 2**20:.0f} MiB")
        print_table(
            ("", "seconds", "MiB of its own", "at its peak"),
            [(way, *run(way, file, args.threads)) for way in WAYS],
        )


def config_of(args: Any) -> dict[str, Any]:
    sizes = {
        "io_channels": args.channels,
        "embed_dim": args.dim,
        "depth": args.depth,
        "num_heads": args.heads,
    }
    return {
        "model_type": "diffusion_cond",
        "sample_rate": 44_100,
        "sample_size": args.frames,
        "model": {"io_channels": args.channels, "diffusion": {"type": "dit", "config": sizes}},
    }


def run(way: str, file: Path, threads: int) -> tuple[float, ...]:
    command = [sys.executable, __file__, "--file", str(file), "--way", way, "--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return tuple(json.loads(done.stdout))


def measure(file: Path, way: str) -> tuple[float, float, float]:
    """Seconds, and MiB of its own at the end and at the peak."""
    create_model_from_config(config_in(file), device="meta")  # imports, which all ways need
    before, start = own_memory(), time.perf_counter()
    with sampled_memory() as samples:
        model = WAYS[way](file)
        seconds = time.perf_counter() - start
    used = own_memory() - before
    assert sum(p.numel() for p in model.parameters())
    return seconds, used / 2**20, max(max(samples) - before, used) / 2**20


@contextmanager
def sampled_memory() -> Iterator[list[int]]:
    """What the process itself holds, every few milliseconds within the block."""
    samples, done = [own_memory()], threading.Event()

    def sample() -> None:
        while not done.wait(0.005):
            samples.append(own_memory())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def config_in(file: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(str(file), framework="pt") as content:
        return json.loads(content.metadata()["config"])


def own_memory() -> int:
    """Bytes of anonymous memory of this process; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


if __name__ == "__main__":
    main()
