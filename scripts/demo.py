"""The main job on the embedded default: train a small text-to-audio model, render prompts, measure them.

Everything goes through the same commands that a user types; each is printed before it runs. Ctrl-C keeps
what there is, and the same call goes on from there.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "model_configs/quickstart/quickstart.json"
DATASET = "dataset_configs/synthetic.json"
PROMPTS = "model_configs/quickstart/prompts.jsonl"
SAMPLING = ["--cfg-scale", "1.5", "--steps", "24"]
DEFAULT_OUT = ROOT / "runs" / "demo"
FIRST_SOUNDS_MINUTES = 2
MISSED = 1
"""Exit status of evaluate-quickstart where all ran and a goal is missed: there are sounds to listen to."""
# Threads that wait for each other by spinning lose most of their time where other programs want the cores,
# and those that sleep at once are woken late on virtual machines: spin for less than a tenth of a ms.
ENVIRONMENT = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "0", **os.environ}


class Commands:
    """Runs one command after the other, until one fails or a signal arrives.

    Signals are for the command that runs: it ends in order, with a checkpoint, and its exit status says so.
    A terminal sends Ctrl-C to it as well; SIGTERM reaches this process alone, which passes it on.
    """

    def __init__(self) -> None:
        self._running: subprocess.Popen[bytes] | None = None
        self._signal = 0
        # Functions, since commands would inherit SIG_IGN.
        signal.signal(signal.SIGINT, self._note)
        signal.signal(signal.SIGTERM, self._note)

    def run(self, *command: str) -> int:
        """Its exit status, as shells count."""
        if not self._signal:
            print("\n$", shlex.join(["python", *command]), flush=True)
            self._running = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=ENVIRONMENT)
            status = self._running.wait()
            if status:
                return status if status > 0 else 128 - status
        return 128 + self._signal if self._signal else 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        if number == signal.SIGTERM and self._running is not None:
            self._running.send_signal(number)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--max-steps", type=int, help="of training (default: the config's)")
    args = parser.parse_args()
    out, began, commands, status = args.out.resolve(), time.monotonic(), Commands(), 0
    run = out / "quickstart"
    print(
        "How long this takes depends on the machine: training says so within half a minute. Sounds to listen "
        f"to are there after {FIRST_SOUNDS_MINUTES} minutes of training. Ctrl-C keeps what there is."
    )
    weights = str(run / "last.safetensors")
    render = ["--prompts", PROMPTS, *SAMPLING, "--batch-size", "12", "--page"]
    for command in (
        _training(out, args.max_steps),
        ["infer.py", "--ckpt-path", weights, *render, "--out", str(out / "rendered")],
        [
            "-m",
            "stable_audio",
            "evaluate-quickstart",
            "--ckpt-path",
            weights,
            "--dataset-config",
            DATASET,
            "--out",
            str(out / "evaluation"),
        ],
    ):
        status = commands.run(*command)
        if status in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            print(f"\nstopped ({_left(out)}); {_again(args)} goes on from here")
        if status and not (status == MISSED and "evaluate-quickstart" in command):
            return status
    minutes = (time.monotonic() - began) / 60
    print(f"\ndone in {minutes:.1f} minutes; listen: {out / 'rendered' / 'index.html'}")
    if status == MISSED:
        print("the model misses goals of the measure, named above; docs/quickstart.md says why")
    return 0


def _training(out: Path, max_steps: int | None) -> list[str]:
    # No data processes: the clips are rendered once and kept, and the cores are needed for training.
    command = ["train.py", "--model-config", CONFIG, "--dataset-config", DATASET, "--num-workers", "0"]
    command += ["--save-dir", str(out), "--name", "quickstart", "--recover", "--checkpoint-minutes", "2"]
    command += ["--first-demo-minutes", str(FIRST_SOUNDS_MINUTES)]
    return command + (["--max-steps", str(max_steps)] if max_steps is not None else [])


def _left(out: Path) -> str:
    """What an interrupted demo leaves."""
    places = {
        "sounds": (out / "rendered" / "index.html", out / "quickstart" / "demos" / "index.html"),
        "weights": (out / "quickstart" / "last.safetensors",),
    }
    present = {what: next((p for p in paths if p.exists()), None) for what, paths in places.items()}
    told = [f"{what} so far: {path}" for what, path in present.items() if path is not None]
    return ", ".join(told) or "nothing was written yet"


def _again(args: argparse.Namespace) -> str:
    """The command that continues."""
    if args.max_steps is not None:
        return "the same command"
    return (
        "make demo" if args.out.resolve() == DEFAULT_OUT else f"make demo DEMO={shlex.quote(str(args.out))}"
    )


if __name__ == "__main__":
    sys.exit(main())
