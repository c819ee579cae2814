"""The quickstart in the latents of an autoencoder trained here: the whole chain, command by command.

    python examples/latent_quickstart.py

Trains an autoencoder on one octave of the synthetic collection, encodes the clips once, trains a diffusion
model like the quickstart's on the stored latents, renders prompts and measures how many are right. Needs no
data. Each command is printed before it runs; what is finished is not done again, so that the script can be
stopped and started. docs/examples/latent_quickstart.md shows what to expect.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = "model_configs/quickstart"
DATA = "dataset_configs/synthetic_octave.json"
GOALS = {"pitch": 0.95, "timbre": 0.8, "reconstruction": 0.9}
"""Shares to reach with an autoencoder and a diffusion model that begin from nothing."""


def run(*command: str) -> None:
    """Print and run `python COMMAND` in the repository; its failure ends the script."""
    print("\n$", shlex.join(["python", *command]), flush=True)
    began = time.monotonic()
    if code := subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode:
        sys.exit(code)
    print(f"({time.monotonic() - began:.0f} s)", flush=True)


def train(out: Path, name: str, config: str, *arguments: str) -> Path:
    """Train, or go on where it was stopped; returns the run's folder."""
    given = ["--model-config", config, "--num-workers", "0", "--save-dir", str(out), "--name", name]
    run("train.py", *given, "--recover", *arguments)
    return out / name


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/latent_quickstart"))
    out = parser.parse_args().out.resolve()
    out.mkdir(parents=True, exist_ok=True)

    codec = train(out, "autoencoder", f"{CONFIGS}/autoencoder.json", "--dataset-config", DATA)

    latents = out / "latents"
    run("-m", "stable_audio", "encode", DATA, "-o", str(latents), "--ckpt-path", str(codec),
        "--batch-size", "32", "--num-workers", "0")  # fmt: skip

    stored = out / "latents.json"
    entry = {"dataset_type": "pre_encoded", "datasets": [{"id": "synthetic", "path": str(latents)}]}
    stored.write_text(json.dumps(entry, indent=2))
    begin = ["--dataset-config", str(stored), "--pretransform-ckpt-path", str(codec)]
    model = train(out, "diffusion", f"{CONFIGS}/latent.json", *begin)

    prompts = ["--prompts", f"{CONFIGS}/prompts_octave.jsonl", "--cfg-scale", "1.5", "--steps", "24"]
    run("infer.py", "--ckpt-path", str(model), *prompts, "--batch-size", "12", "--page",
        "--out", str(out / "rendered"))  # fmt: skip
    print(f"\nlisten: {out / 'rendered' / 'index.html'}")
    goals = [argument for name, share in GOALS.items() for argument in (f"--target-{name}", str(share))]
    # Its exit status, which ends the script, is 1 where a goal is missed.
    run("-m", "stable_audio", "evaluate-quickstart", "--ckpt-path", str(model), "--dataset-config", DATA,
        *goals, "--out", str(out / "evaluation"))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
