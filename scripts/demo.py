"""The main job on the embedded default: train a small text-to-audio model, render prompts, measure them.

Everything goes through the same commands that a user types; each is printed before it runs.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "model_configs/quickstart/quickstart.json"
DATASET = "dataset_configs/synthetic.json"
PROMPTS = "model_configs/quickstart/prompts.jsonl"
SAMPLING = ["--cfg-scale", "1.5", "--steps", "24"]


def run(*command: str) -> None:
    print("\n$", shlex.join(["python", *command]), flush=True)
    if code := subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode:
        sys.exit(code)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    out = parser.parse_args().out.resolve()
    began = time.monotonic()
    # No data processes: the clips are rendered once and kept, and the cores are needed for training.
    train = ["--model-config", CONFIG, "--dataset-config", DATASET, "--num-workers", "0"]
    run("train.py", *train, "--save-dir", str(out), "--name", "quickstart", "--recover")
    weights = str(out / "quickstart" / "last.safetensors")
    render = ["--prompts", PROMPTS, *SAMPLING, "--batch-size", "12", "--page"]
    run("infer.py", "--ckpt-path", weights, *render, "--out", str(out / "rendered"))
    run("-m", "stable_audio", "evaluate-quickstart", "--ckpt-path", weights, "--out", str(out / "evaluation"))
    print(
        f"\ndone in {(time.monotonic() - began) / 60:.1f} minutes; listen: {out / 'rendered' / 'index.html'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
