"""`stable-audio generate` and `infer.py`: render audio from a model."""

from __future__ import annotations

import argparse
from typing import Any

from stable_audio.cli.importing import importing
from stable_audio.cli.options import (
    OR_PARTS_OR_HUB,
    add_adapter,
    add_any_base,
    add_device,
    add_devices,
    add_lenient,
    add_matmul_precision,
    add_no_ema,
    add_render_dtype,
)
from stable_audio.cli.output_flags import output_arguments

HELP = "render audio from a model and prompts"
SPLITS_WORK = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _model_arguments(parser.add_argument_group("model"))
    _content_arguments(parser.add_argument_group("what to render"))
    _sampling_arguments(
        parser.add_argument_group("sampling (the model's settings, then those of its objective)")
    )
    _audio_arguments(parser.add_argument_group("audio to start from, or to edit"))
    _form_arguments(parser.add_argument_group("loops, long clips, variations and interpolation"))
    output_arguments(parser.add_argument_group("output"))


def _model_arguments(group: Any) -> None:
    group.add_argument(
        "--ckpt-path", metavar="PATH", help=f"checkpoint file, or folder of a run or a model{OR_PARTS_OR_HUB}"
    )
    group.add_argument(
        "--model-config", metavar="FILE", help="model file; default: the one in the checkpoint"
    )
    group.add_argument(
        "--pretransform-ckpt-path", metavar="FILE", help=f"weights of the autoencoder alone{OR_PARTS_OR_HUB}"
    )
    group.add_argument(
        "--guide-ckpt-path",
        metavar="PATH",
        help="weaker model to steer away from, such as an earlier checkpoint; needs --guide-scale",
    )
    add_adapter(group, help="adapter to generate with, applied in the order given; may be repeated")
    add_any_base(group)
    group.add_argument(
        "--thin-adapters",
        action="store_true",
        help="save the memory of updated weights: layers add low-rank products, which takes more time",
    )
    add_lenient(group)
    add_no_ema(group)
    add_device(group)
    add_devices(group)
    add_render_dtype(group)
    add_matmul_precision(group)
    group.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="torch.compile the backbone: for many clips of few lengths, since the first of each length "
        "takes long (on a CUDA device for 100 clips or more)",
    )
    group.add_argument(
        "--offload",
        action="store_true",
        help="keep the weights in host memory, and bring text encoders, backbone and autoencoder to the GPU "
        "one after the other; slower, in the memory of the largest",
    )


def _content_arguments(group: Any) -> None:
    group.add_argument("--prompt", action="append", metavar="TEXT", help="text to render; may be repeated")
    group.add_argument(
        "--prompts",
        metavar="FILE",
        help="file of clips or grids of clips: JSON Lines (an object of conditioning a line), JSON, YAML",
    )
    group.add_argument(
        "--grid",
        action="append",
        metavar="KEY=VALUES",
        help="render every clip with each of these values, for example cfg_scale=2,4 or seed=1,2,3; may be "
        "repeated for every combination",
    )
    group.add_argument("--negative-prompt", metavar="TEXT", help="text to steer away from")
    group.add_argument(
        "--negative-condition",
        action="append",
        metavar="KEY=VALUE",
        help="any other conditioning to steer away from, where --negative-slot says; may be repeated",
    )
    group.add_argument(
        "--condition",
        action="append",
        metavar="KEY=VALUE",
        help="any other conditioning, for example seconds_start=0; VALUE is JSON or text, "
        "or @FILE for conditioners that read sounds; may be repeated",
    )
    group.add_argument("--count", type=int, help="clips per prompt, with consecutive seeds (1)")
    group.add_argument("--seconds", type=float, help="length of the clips (the model's)")
    group.add_argument(
        "--seed", type=int, help="seed of the first clip, the next clips count up; -1 = random (0)"
    )
    group.add_argument(
        "--shard",
        metavar="PART/PARTS",
        help="render only this part of the clips, for example 2/4; the parts may share a folder",
    )
    group.add_argument(
        "--from-json", metavar="FILE", help="render again from the recipe in this JSON or sound file"
    )


def _sampling_arguments(group: Any) -> None:
    group.add_argument("--steps", type=int, help="sampling steps (default: the model's, or the objective's)")
    group.add_argument(
        "--cfg-scale", type=float, help="guidance weight, 1 = off (default: the model's, or the objective's)"
    )
    group.add_argument(
        "--sampler", help="a wrong name lists them all (default: the model's, or the objective's)"
    )
    group.add_argument(
        "--sampler-option",
        action="append",
        metavar="KEY=VALUE",
        help="option of the sampler, for example eta=0.5; may be repeated",
    )
    group.add_argument(
        "--forecast-every",
        type=int,
        metavar="N",
        help="run the network at one step in N, and extrapolate its output in between (1)",
    )
    group.add_argument(
        "--forecast-order", type=int, metavar="DEGREE", help="degree of that extrapolation, 0 to 3 (1)"
    )
    group.add_argument(
        "--schedule",
        metavar="NAME_OR_LEVELS",
        help="polyexponential, exponential, karras, cosine, linear, logsnr, shifted; for discrete processes "
        "also ddim, leading, trailing, linspace; or the levels from noise to 0, for example 1,0.6,0.2,0 "
        "(default: the model's, or the sampler's)",
    )
    group.add_argument("--sigma-min", type=float, help="last noise level before 0 (0.01)")
    group.add_argument(
        "--sigma-max",
        type=float,
        help="first noise level (100; at most 1 for objectives whose noise level is the time t)",
    )
    group.add_argument("--rho", type=float, help="exponent of the schedule (1)")
    group.add_argument(
        "--cfg-rescale",
        type=float,
        metavar="PHI",
        help="0 to 1: how far guided output is scaled to the level of unguided output (the backbone's)",
    )
    group.add_argument(
        "--cfg-interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="guide only between these noise levels (0 1)",
    )
    group.add_argument(
        "--cfg-schedule",
        metavar="NAME_OR_POINTS",
        help="linear or cosine: more guidance towards the data; or shares of it at times t, for example "
        "1:0,0.6:1,0:1",
    )
    group.add_argument(
        "--apg-scale",
        type=float,
        metavar="SHARE",
        help="0 to 1: how much of the guidance that only amplifies the sound is left out (the model's, or 0)",
    )
    group.add_argument(
        "--apg-momentum",
        type=float,
        metavar="BETA",
        help="factor of the guidance of earlier steps that is added to each, such as -0.5",
    )
    group.add_argument(
        "--cfg-norm-threshold",
        type=float,
        metavar="NORM",
        help="greatest norm of the guidance; 0 = no limit (0)",
    )
    group.add_argument(
        "--cfg-zero-star",
        action="store_true",
        default=None,
        help="fit the unconditional velocity of flows to the conditional one first, as CFG-Zero* does",
    )
    group.add_argument(
        "--zero-init",
        type=float,
        metavar="SHARE",
        help="hold the sound of flows still in this first share of the times, such as 0.04 of CFG-Zero*",
    )
    group.add_argument(
        "--slot-scale",
        action="append",
        metavar="SLOT=WEIGHT",
        help="guidance weight of one slot in place of --cfg-scale, for example cross_attn=6; may be repeated",
    )
    group.add_argument(
        "--negative-slot",
        action="append",
        metavar="SLOT",
        help="slot in which negative conditioning takes effect, or all; may be repeated (cross_attn)",
    )
    group.add_argument(
        "--guide-scale", type=float, metavar="WEIGHT", help="weight of --guide-ckpt-path, 1 = off"
    )
    group.add_argument(
        "--headroom-seconds",
        type=float,
        metavar="SECONDS",
        help="silence behind each clip for models that hide padding from attention (5)",
    )
    group.add_argument(
        "--dist-shift",
        action=argparse.BooleanOptionalAction,
        help="shift the schedule by the clip's length (rk4, and models with a shift of their own)",
    )


def _audio_arguments(group: Any) -> None:
    group.add_argument("--init-audio", metavar="FILE", help="start from this sound instead of noise")
    group.add_argument("--init-noise-level", type=float, help="how much noise to add to it (0.7)")
    group.add_argument(
        "--inversion-steps",
        type=int,
        metavar="STEPS",
        help="lead it back to its own noise instead, so that another prompt changes what it says alone",
    )
    group.add_argument("--init-prompt", metavar="TEXT", help="what it is, for --inversion-steps (the prompt)")
    group.add_argument("--inpaint-audio", metavar="FILE", help="keep this sound except where --inpaint says")
    group.add_argument(
        "--inpaint",
        nargs="+",
        action="append",
        metavar="START:END",
        help="parts to generate anew, in seconds: 5:10,12:13, or 5 10; the rest returns sample for sample; "
        "may be repeated",
    )
    group.add_argument(
        "--inpaint-repeats",
        type=int,
        metavar="TIMES",
        help="how often each step is walked by models without an input for inpainting (4)",
    )
    group.add_argument("--extend", type=float, metavar="SECONDS", help="let --inpaint-audio go on for longer")


def _form_arguments(group: Any) -> None:
    group.add_argument("--loop", action="store_const", const=True, help="a sound that goes on into itself")
    group.add_argument("--bars", type=float, help="length of the clips in bars of --beats at --bpm")
    group.add_argument("--bpm", type=float, help="beats per minute")
    group.add_argument("--beats", type=float, help="beats of a bar (4)")
    group.add_argument(
        "--window",
        type=float,
        nargs="?",
        const=0.0,
        metavar="SECONDS",
        help="generate longer clips in overlapping windows, of SECONDS or of the length of training",
    )
    group.add_argument(
        "--short", action="store_const", const=True, help="no more latents than --seconds need; saves time"
    )
    group.add_argument("--to-prompt", metavar="TEXT", help="prompt to go to, as far as --mix says")
    group.add_argument("--to-seed", type=int, help="seed of the noise to go to, as far as --mix says")
    group.add_argument("--mix", type=float, help="how far to go, 0 to 1; --grid mix=0,0.5,1 renders the way")


def run(args: argparse.Namespace) -> int:
    with importing():
        from stable_audio.cli.rendering import render_command

    return render_command(args)
