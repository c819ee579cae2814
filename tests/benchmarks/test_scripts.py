"""The benchmark scripts run and print their tables; what they print is not judged here."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SIZES = ["--depth", "1", "--dim", "32", "--heads", "2", "--frames", "16", "--rounds", "1"]


@pytest.mark.parametrize(
    ("script", "arguments", "rows"),
    [
        ("train_step", SIZES, ["forward", "step with AdamW", "step, recomputing"]),
        (
            "memory_levers",
            ["--depth", "1", "--dim", "32", "--frames", "8", "--steps", "3", "--only", "plain AdamW"],
            ["plain AdamW"],
        ),
        ("sampling", [*SIZES, "--steps", "2"], ["no guidance", "cfg_scale 4"]),
        (
            "adapters",
            [*SIZES, "--steps", "2", "--rank", "2", "--types", "lora", "bora"],
            ["base", "merged", "lora", "bora", "two", "three, gated"],
        ),
        (
            "adapter_training",
            ["--depth", "1", "--dim", "32", "--frames", "8", "--steps", "2", "--rounds", "1"]
            + ["--rank", "2", "--types", "lora"],
            ["full", "full, averaged", "lora"],
        ),
        ("packing", [*SIZES, "--rows", "2"], ["padded", "buckets", "packed"]),
        (
            "autoencoder",
            ["--channels", "2", "--seconds", "0.2", "--rounds", "1", "--device", "cpu"]
            + ["--overlaps", "8", "--lengths", "1", "--memory-channels", "2"],
            ["encode", "decode", "plain", "folded", "fast", "decode, overlap 8", "encode 1 s"],
        ),
        (
            "autoencoder_train",
            ["--channels", "4", "--samples", "4096", "--rounds", "1", "--dtype", "bfloat16"],
            ["generator step", "discriminator step", "generator step, bfloat16"],
        ),
        ("layers", ["--frames", "64", "--rounds", "1"], ["attention, fused", "snake, keeps x alone"]),
        (
            "loading",
            ["--depth", "1", "--dim", "32", "--heads", "1", "--threads", "1"],
            ["model, without weights", "run, over random weights"],
        ),
        (
            "backbones",
            ["--frames", "32", "--batch", "1", "--rounds", "1", "--only", "dit", "mlp"],
            ["dit", "mlp"],
        ),
    ],
)
def test_prints_its_table(
    script: str,
    arguments: list[str],
    rows: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "common", raising=False)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(FOLDER / f"{script}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    table = {line.split("  ")[0] for line in printed.splitlines()}
    assert set(rows) <= table, printed
