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


def run(*command: str) -> None:
    print("\n$", shlex.join(["python", *command]), flush=True)
    if code := subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode:
        sys.exit(code)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--max-steps", type=int, default=None, help="default: what the config says")
    options = parser.parse_args()
    began, out = time.monotonic(), options.out.resolve()
    steps = ["--max-steps", str(options.max_steps)] if options.max_steps else []
    train = [
        "--model-config",
        CONFIG,
        "--dataset-config",
        DATASET,
        "--save-dir",
        str(out),
        "--name",
        "quickstart",
    ]
    run("train.py", *train, *steps)
    weights = str(out / "quickstart" / "last.safetensors")
    run("infer.py", "--ckpt-path", weights, "--prompts", PROMPTS, "--out", str(out / "rendered"), "--page")
    run("-m", "stable_audio", "evaluate-quickstart", "--ckpt-path", weights, "--out", str(out / "evaluation"))
    print(
        f"\ndone in {(time.monotonic() - began) / 60:.1f} minutes; listen: {out / 'rendered' / 'index.html'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
