"""`stable-audio evaluate-quickstart`: does a quickstart model play the sound and pitch of its prompt?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from stable_audio.cli.options import add_device, add_out

HELP = "measure how well the clips of a quickstart model match the pitch and timbre of their prompts"

EPILOG = """
exit status: 0 when pitch and timbre both reach --target at the given CFG scale, 1 when one does not.
"""

CFG_SCALE, STEPS = 1.5, 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("--ckpt-path", required=True, help="inference file, checkpoint or folder of a run")
    parser.add_argument(
        "--dataset-config", help="synthetic dataset that the model was trained on (the default one)"
    )
    parser.add_argument("--cfg-scale", type=float, default=CFG_SCALE, help="guidance weight (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="sampling steps (%(default)s)")
    parser.add_argument("--sampler", help="name of the sampler (default: the objective's)")
    parser.add_argument("--repeats", type=int, default=2, help="clips per sound and pitch (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first clip (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=42, help="clips per batch (%(default)s)")
    add_device(parser)
    parser.add_argument(
        "--target", type=float, default=0.8, help="share of correct clips to reach (%(default)s)"
    )
    parser.add_argument(
        "--no-baselines", dest="baselines", action="store_false", help="measure the trained model alone"
    )
    add_out(parser, type=Path, help="folder for figures.json and the generated clips")


def run(args: argparse.Namespace) -> int:
    import torch

    from stable_audio.checkpoints import load_model
    from stable_audio.evaluation.quickstart import QuickstartEvaluator
    from stable_audio.factory import create_model_from_config
    from stable_audio.inference.devices import best_device

    model: Any
    model, config = load_model(args.ckpt_path, device=best_device(args.device))
    evaluator = QuickstartEvaluator(
        sample_rate=model.sample_rate, sample_size=model.sample_size, **_pitches(args.dataset_config)
    )
    figures = {"trained": _judge(args, "trained", model, evaluator, args.cfg_scale)}
    if args.baselines:
        if model.pretransform is not None:
            figures["reconstruction"] = _judge_pretransform(args, model, evaluator)
        # At guidance weight 0, only the unconditional branch remains.
        figures["null conditioning"] = _judge(args, "null conditioning", model, evaluator, 0.0)
        with torch.random.fork_rng():
            torch.manual_seed(args.seed)
            untrained = create_model_from_config(config).to(model.device).eval()
        figures["untrained"] = _judge(args, "untrained", untrained, evaluator, args.cfg_scale)
    if args.out is not None:
        _write(args.out / "figures.json", figures)
    trained = figures["trained"]
    return 0 if min(trained["pitch"], trained["timbre"], trained["pitched_timbre"]) >= args.target else 1


def _pitches(dataset_config: str | None) -> dict[str, int]:
    if dataset_config is None:
        return {}
    from stable_audio.config import load_dataset_config

    entry = load_dataset_config(dataset_config).model_dump()
    return {key: entry[key] for key in ("lowest_pitch", "num_pitches") if key in entry}


def _judge(
    args: argparse.Namespace, label: str, model: Any, evaluator: Any, cfg_scale: float
) -> dict[str, Any]:
    """Generate a clip per request, print and return the scores."""
    from stable_audio.inference import generate

    requests = evaluator.requests(repeats=args.repeats)
    clips = generate(
        model,
        [request.metadata() for request in requests],
        seeds=args.seed,
        steps=args.steps,
        cfg_scale=cfg_scale,
        sampler=args.sampler,
        batch_size=args.batch_size,
    )
    scores = evaluator.score(clips, requests)
    _print(f"{label} (CFG {cfg_scale:g}, {args.steps} steps)", scores)
    if args.out is not None and label == "trained":
        _save_clips(args.out, clips, requests, evaluator.sample_rate)
    return {**scores.as_dict(), "cfg_scale": cfg_scale, "steps": args.steps}


def _judge_pretransform(args: argparse.Namespace, model: Any, evaluator: Any) -> dict[str, Any]:
    """Scores of the requested clips after encoding and decoding: what the pretransform alone loses."""
    import torch

    from stable_audio.inference.generation.to_audio import decode_each

    with torch.inference_mode():
        originals = evaluator.originals(repeats=args.repeats).expand(-1, model.audio_channels, -1)
        latents = [
            model.pretransform.encode(clip.to(model.device), noise=torch.zeros_like)
            for clip in originals.split(1)
        ]
        scores = evaluator.score(
            decode_each(model, torch.cat(latents)), evaluator.requests(repeats=args.repeats)
        )
    _print("reconstruction (the pretransform alone)", scores)
    return scores.as_dict()


def _print(title: str, scores: Any) -> None:
    print(f"{title}\n{scores.summary()}\n{scores.table()}\n", flush=True)


def _save_clips(folder: Path, clips: Any, requests: list[Any], sample_rate: int) -> None:
    from stable_audio.audio.io import save_audio

    folder.mkdir(parents=True, exist_ok=True)
    for number, (clip, request) in enumerate(zip(clips, requests)):
        slug = "".join(c if c.isalnum() else "_" for c in request.prompt)
        save_audio(folder / f"{number:03d}_{slug}.wav", clip, sample_rate)


def _write(path: Path, figures: dict[str, Any]) -> None:
    from stable_audio.audio.atomic import atomic_write

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        Path(temporary).write_text(json.dumps(figures, indent=2), encoding="utf-8")
