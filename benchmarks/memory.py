"""What training takes per shipped model file, as `stable-audio check --dry` plans it; no weights are made.

    python benchmarks/memory.py            print the table of docs/planning.md
    python benchmarks/memory.py --write    write it there

Takes about five minutes of one CPU core: the steps of large models are followed operation by operation.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.model import DiffusionModel
from stable_audio.shipped import shipped
from stable_audio.training.check.footprint import describe, describe_autoencoder
from stable_audio.training.memory_plan import Planner, choice_of
from stable_audio.training.options import RunOptions

PAGE = Path(__file__).parents[1] / "docs" / "planning.md"
BEGIN, END = "<!-- begin table -->", "<!-- end table -->"
COLUMNS = (
    "file",
    "trained parameters",
    "weights, gradients, optimizer, average",
    "one clip per batch, in all",
    "each further clip",
    "`last.ckpt`",
    "for inference",
)
HEADER = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def row(name: str, path: Path) -> str:
    """The line of one model file."""
    config = load_config(path)
    model = create_model_from_config(config, device="meta")
    sizes = describe if isinstance(model, DiffusionModel) else describe_autoencoder
    report: dict[str, Any] = sizes(model, config)  # type: ignore[arg-type]
    planner = Planner(config)
    choice = choice_of(config, RunOptions(), precision="32-true")
    one, three = (
        {k: v for k, v in planner.plan(replace(choice, batch_size=n)).parts.items() if k != "reserve"}
        for n in (1, 3)
    )
    clip = (sum(three.values()) - sum(one.values())) // 2
    mark = " (recomputed)" if config.training.gradient_checkpointing else ""
    cells = [
        f"`{name}`",
        f"{report['parameters']['trainable'] / 1e6:.1f} M",
        size(sum(v for part, v in one.items() if part != "activations")),
        size(sum(one.values())),
        size(clip) + mark,
        size(report["checkpoint"]["training"]),
        size(report["checkpoint"]["inference"]),
    ]
    return "| " + " | ".join(cells) + " |"


def size(count: int) -> str:
    """Bytes in GiB or MiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def rows() -> Iterator[str]:
    """The lines of all files."""
    for name, path in shipped("model").items():
        yield row(name, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write the table into docs/planning.md")
    args = parser.parse_args()
    table = "\n".join([HEADER, *rows()])
    print(table)
    if args.write:
        text = PAGE.read_text(encoding="utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
