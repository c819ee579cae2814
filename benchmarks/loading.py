"""Loading a model from a file: into networks without weights, and over random ones; time and memory.

python benchmarks/loading.py [--dim 1536 --depth 24 --heads 24]

Each way runs in a process of its own, on a file that was just written, so that the disk plays no part. Memory
is what the process itself holds at the end beyond what it held before (on Linux), without pages of the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import add_model_arguments, describe_machine, new_parser, print_table

from stable_audio.checkpoints import export, load_model, load_pretrained
from stable_audio.factory import create_model_from_config

WAYS = ("without weights", "over random weights")


def main() -> None:
    parser = new_parser(__doc__)
    add_model_arguments(parser)
    parser.add_argument("--file", type=Path, help="measure one way on this file (used by the script itself)")
    parser.add_argument("--way", choices=WAYS, default=WAYS[0])
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
        print_table(("", "seconds", "MiB of its own"), [(way, *run(way, file, args.threads)) for way in WAYS])


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


def run(way: str, file: Path, threads: int) -> tuple[float, float]:
    command = [sys.executable, __file__, "--file", str(file), "--way", way, "--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return tuple(json.loads(done.stdout))


def measure(file: Path, way: str) -> tuple[float, float]:
    config = load_config_of(file)
    create_model_from_config(config, device="meta")  # imports, which both ways need
    before, start = own_memory(), time.perf_counter()
    if way == WAYS[0]:
        model = load_model(file)[0]
    else:
        model = create_model_from_config(config)
        load_pretrained(model, file)
    seconds = time.perf_counter() - start
    used = own_memory() - before
    assert sum(p.numel() for p in model.parameters())
    return seconds, used / 2**20


def load_config_of(file: Path) -> dict[str, Any]:
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
