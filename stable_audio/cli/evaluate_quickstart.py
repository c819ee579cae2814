"""`stable-audio evaluate-quickstart`: does a quickstart model play the sound and pitch of its prompt?"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from stable_audio.audio.writable import require_folder
from stable_audio.cli.fields import add_field, fields_from
from stable_audio.cli.importing import importing
from stable_audio.cli.options import OR_PARTS_OR_HUB, add_device, add_out
from stable_audio.evaluation.quickstart_goals import Goals
from stable_audio.evaluation.quickstart_requests import Requests

if TYPE_CHECKING:
    from stable_audio.evaluation.quickstart_models import JudgedModel

HELP = "measure how well the clips of a quickstart model match the pitch and timbre of their prompts"

EPILOG = f"""
exit status: 0 when the model reaches its goals at the given CFG scale (pitch {Goals.pitch:.0%}, timbre
{Goals.timbre:.0%}, pairs of a timbre and a pitch that never occur in training {Goals.held_out:.0%}; or
the --target options) and the baselines are at chance; 1 otherwise.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument(
        "--ckpt-path", required=True, help=f"inference file, checkpoint or folder of a run{OR_PARTS_OR_HUB}"
    )
    parser.add_argument(
        "--dataset-config", help="synthetic dataset that the model was trained on (the default one)"
    )
    add_field(parser, Requests, "cfg_scale", help="guidance weight (%(default)s)")
    add_field(parser, Requests, "steps", help="sampling steps (%(default)s)")
    add_field(parser, Requests, "sampler", help="name of the sampler (default: the objective's)")
    add_field(parser, Requests, "repeats", help="clips per sound and pitch (%(default)s)")
    add_field(parser, Requests, "seed", help="seed of the first clip (%(default)s)")
    add_field(parser, Requests, "batch_size", help="clips per batch (%(default)s)")
    add_device(parser)
    _add_goals(parser)
    parser.add_argument(
        "--no-baselines", dest="baselines", action="store_false", help="measure the trained model alone"
    )
    add_out(parser, type=Path, help="folder for figures.json and the generated clips")


_TARGETS = {
    "pitch": "of right pitches",
    "timbre": "of right timbres",
    "held_out": "of both in pairs that never occur in training",
    "reconstruction": "of right timbres of rendered clips through the pretransform alone (default: any)",
}
"""Fields of `Goals` with an option of their own -> what the share is of."""


def _add_goals(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("goals", "shares to reach, in [0, 1]")
    group.add_argument("--target", type=float, help="share to reach of pitch, timbre and held-out pairs")
    for name, what in _TARGETS.items():
        group.add_argument(
            f"--target-{name.replace('_', '-')}", dest=f"target_{name}", type=float, help=f"share {what}"
        )


def _goals(args: argparse.Namespace) -> Goals:
    goals = Goals() if args.target is None else Goals.uniform(args.target)
    own = {name: value for name in _TARGETS if (value := getattr(args, f"target_{name}")) is not None}
    return dataclasses.replace(goals, **own)


def run(args: argparse.Namespace) -> int:
    with importing():
        from stable_audio.evaluation.quickstart_report import evaluate_quickstart
        from stable_audio.inference.devices import best_device

    require_folder(args.out)
    missed = evaluate_quickstart(
        args.ckpt_path,
        dataset=args.dataset_config,
        requests=Requests(**fields_from(args, Requests)),
        goals=_goals(args),
        baselines=args.baselines,
        out=args.out,
        device=best_device(args.device),
        report=lambda judged: print(_as_text(judged), flush=True),
    )
    print("all goals reached" if not missed else f"missed: {'; '.join(missed)}")
    return 0 if not missed else 1


def _as_text(judgement: JudgedModel) -> str:
    how = "the pretransform alone"
    if judgement.steps is not None:
        how = f"CFG {judgement.cfg_scale:g}, {judgement.steps} steps"
    scores = judgement.scores
    return f"{judgement.label} ({how})\n{scores.summary()}\n{scores.details()}\n{scores.table()}\n"
