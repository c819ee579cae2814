"""`stable-audio generate` after its arguments are parsed."""

from __future__ import annotations

import argparse
import functools
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stable_audio import __version__
from stable_audio.adapters.spec import specs_of
from stable_audio.audio.regions import parse_regions
from stable_audio.audio.writable import require_folder
from stable_audio.characters import refuse
from stable_audio.cli.fields import fields_from, given
from stable_audio.cli.key_values import grid_axes, key_values
from stable_audio.cli.render_report import report, show_progress
from stable_audio.cli.sampling_flags import ARGUMENTS, sampling_from_flags
from stable_audio.data.world import World, WorldError, launched_world
from stable_audio.inference.devices import AUTO, best_device
from stable_audio.inference.generation.generate import RANDOM_SEED, random_seed
from stable_audio.inference.rendering.earlier_dtype import settled_dtype
from stable_audio.inference.rendering.edits import Edit
from stable_audio.inference.rendering.finishing import Finishing
from stable_audio.inference.rendering.gallery import write_render_page
from stable_audio.inference.rendering.job_files import read_lines
from stable_audio.inference.rendering.job_lines import JobLine, edited_jobs_of
from stable_audio.inference.rendering.jobs import Job, needed_ids
from stable_audio.inference.rendering.load import RenderModel
from stable_audio.inference.rendering.processes import DeviceOptions, DeviceRender, devices_named
from stable_audio.inference.rendering.render import OutputFiles, Rendered
from stable_audio.inference.rendering.request import RenderRequest
from stable_audio.inference.rendering.shards import JobPart
from stable_audio.model import DiffusionModel
from stable_audio.wording import flag_of

_RECIPE_ARGUMENTS = (
    (
        "prompt",
        "prompts",
        "grid",
        "negative_prompt",
        "negative_condition",
        "condition",
        "count",
        "seconds",
        "seed",
    )
    + tuple(ARGUMENTS.values())
    + ("init_noise_level", "inversion_steps", "init_prompt", "inpaint", "inpaint_repeats", "extend")
    + ("loop", "bars", "bpm", "beats", "window", "short", "to_prompt", "to_seed", "mix")
    + ("dtype", "model_config")
    + ("trim_silence", "loudness", "true_peak")
)
"""Arguments that conflict with --from-json, whose recipe sets them."""


def render_command(args: argparse.Namespace) -> int:
    """Load the model, render the clips, print a report; returns the exit status."""
    world = launched_world()
    if world.size > 1:
        _say(str(world))
    _check(args)
    request = _new_request(args) if args.from_json is None else _request_from_recipe(args)
    shared = world if args.shard is None else JobPart.parse(args.shard).within(world)
    if args.devices is None:
        device = best_device(args.device, rank=world.local_rank if world.size > 1 else None)
        request = _settled(request, args.out, device, shared.size)
        clips = _render_here(args, request, device, shared)
    else:
        devices = _devices(args, world)
        request = _settled(request, args.out, devices[0], shared.size * len(devices))
        clips = _render_on(args, request, devices, shared)
    if args.page:
        write_render_page(Path(args.out), [item.path for item in clips])
    return 0


def _settled(request: RenderRequest, out: str, device: torch.device, processes: int) -> RenderRequest:
    dtype = settled_dtype(request.dtype, Path(out), device=device, processes=processes)
    return replace(request, dtype=dtype)


def _render_here(
    args: argparse.Namespace, request: RenderRequest, device: torch.device, world: World
) -> list[Rendered]:
    render_model = _load(request, device, args.matmul_precision, offload=args.offload)
    _refuse_prompts(args, render_model.model)
    task = request.task(render_model)
    for caution in task.cautions():
        _say(f"warning: {caution}")
    rendered = task.render(
        _output(args, str(render_model.model.device)),
        batch_size=args.batch_size,
        world=world,
        progress=show_progress if sys.stderr.isatty() else None,
    )
    return report(rendered, sum(1 for _ in world.share(task.plan.jobs)))


def _render_on(
    args: argparse.Namespace, request: RenderRequest, devices: list[torch.device], world: World
) -> list[Rendered]:
    options = DeviceOptions(
        batch_size=args.batch_size,
        offload=args.offload,
        world=world,
        matmul_precision=args.matmul_precision,
        check=functools.partial(_refuse_prompts, args),
    )
    _say(f"one process each on {', '.join(map(str, devices))}")
    with DeviceRender(request, _output(args, ""), devices, options) as rendered:
        for caution in rendered.cautions:
            _say(f"warning: {caution}")
        return report(rendered, rendered.total)


def _devices(args: argparse.Namespace, world: World) -> list[torch.device]:
    if world.size > 1:
        raise WorldError(
            f"{world}, but --devices starts processes itself; leave it out, or start the command once"
        )
    if args.device != AUTO:
        raise ValueError("--device and --devices both say where to render; give one of them")
    return devices_named(args.devices)


def _output(args: argparse.Namespace, device: str) -> OutputFiles:
    return OutputFiles(
        Path(args.out),
        overwrite=args.overwrite,
        **given(args, "format", "subtype", "name"),
        software={"stable_audio": __version__, "torch": torch.__version__, "device": device},
    )


def _check(args: argparse.Namespace) -> None:
    if args.ckpt_path is None and args.from_json is None:
        raise ValueError("no model: give --ckpt-path, a checkpoint file or the folder of a run")
    for name in ("count", "batch_size"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"{flag_of(name)} must be at least 1, found {value}")
    prompts = [("--prompt", text) for text in args.prompt or []]
    prompts += [(f"--{part}-prompt", getattr(args, f"{part}_prompt")) for part in ("negative", "init", "to")]
    for flag, text in prompts:
        refuse(text or "", flag)
    _output(args, "")
    require_folder(args.out)
    if args.seconds is not None and not 0 < args.seconds < math.inf:
        raise ValueError(f"--seconds must be above 0, found {args.seconds}")
    if args.seed is not None and args.seed < RANDOM_SEED:
        raise ValueError(f"--seed must be at least 0, or -1 for a random one, found {args.seed}")


def _new_request(args: argparse.Namespace) -> RenderRequest:
    return RenderRequest(
        checkpoint=args.ckpt_path,
        config=args.model_config,
        pretransform=args.pretransform_ckpt_path,
        guide=args.guide_ckpt_path,
        lenient=args.lenient,
        use_ema=not args.no_ema,
        **given(args, "dtype"),
        jobs=_jobs(args),
        first_seed=_first_seed(args.seed),
        seconds=args.seconds,
        conditioning=key_values(args.condition, "--condition"),
        negative=_negative(args),
        adapters=specs_of(args.adapter or []),
        any_base=args.any_base,
        thin_adapters=args.thin_adapters,
        compiled=args.compile,
        sampling=sampling_from_flags(args),
        chunked_decode=args.chunked_decode,
        finishing=Finishing(**fields_from(args, Finishing)),
    )


def _negative(args: argparse.Namespace) -> dict[str, Any] | None:
    """The conditioning to steer away from; None without any."""
    values = key_values(args.negative_condition, "--negative-condition")
    if args.negative_prompt is not None:
        values["prompt"] = args.negative_prompt
    return values or None


def _request_from_recipe(args: argparse.Namespace) -> RenderRequest:
    conflicts = [flag_of(n) for n in _RECIPE_ARGUMENTS if getattr(args, n) is not None]
    if conflicts:
        raise ValueError(f"--from-json already sets {', '.join(conflicts)}; leave them out")
    return RenderRequest.from_recipe(
        args.from_json,
        checkpoint=args.ckpt_path,
        pretransform=args.pretransform_ckpt_path,
        guide=args.guide_ckpt_path,
        init_audio=args.init_audio,
        inpaint_audio=args.inpaint_audio,
        adapters=args.adapter or [],
        any_base=args.any_base,
        thin_adapters=args.thin_adapters,
        compiled=args.compile,
    )


def _load(
    request: RenderRequest, device: torch.device, matmul_precision: str, *, offload: bool
) -> RenderModel:
    started = time.perf_counter()
    render_model = request.load(device, offload=offload)
    device = render_model.model.device
    if device.type == "cuda":
        torch.set_float32_matmul_precision(matmul_precision)
    took = time.perf_counter() - started
    _say(f"{render_model.checkpoint.path} loaded in {took:.1f} s, on {device} in {render_model.dtype}")
    return render_model


def _jobs(args: argparse.Namespace) -> list[Job]:
    """Jobs from --prompt and --prompts, before they are completed with what the model needs.

    Raises:
        ValueError: with everything that is wrong with them.
    """
    lines = [JobLine({"conditioning": {"prompt": text}}) for text in args.prompt or []]
    lines += [JobLine(*line) for line in read_lines(args.prompts)] if args.prompts is not None else []
    return edited_jobs_of(
        lines or [JobLine({"conditioning": {}})],
        _edit(args),
        grid=grid_axes(args.grid or []),
        count=args.count or 1,
        seconds=args.seconds,
    )


def _edit(args: argparse.Namespace) -> Edit:
    """The edit of clips without their own."""
    names = (
        "init_audio",
        "init_noise_level",
        "inversion_steps",
        "inpaint_audio",
        "inpaint_repeats",
        "extend",
    )
    form = ("loop", "bars", "bpm", "beats", "short", "to_seed", "mix")
    return Edit(
        **given(args, *names, *form),
        inpaint=_regions(args.inpaint) if args.inpaint is not None else None,
        window_seconds=args.window,
        init_conditioning=None if args.init_prompt is None else {"prompt": args.init_prompt},
        to_conditioning=None if args.to_prompt is None else {"prompt": args.to_prompt},
    )


def _regions(arguments: list[list[str]]) -> list[list[float]]:
    """The parts that --inpaint names: START END, or texts such as 5:10,12:13."""
    regions: list[list[float]] = []
    for texts in arguments:
        try:
            if len(texts) == 2 and not any(":" in text for text in texts):
                regions.append([float(text) for text in texts])
            else:
                regions.extend(list(region) for text in texts for region in parse_regions(text))
        except ValueError as error:
            raise ValueError(f"--inpaint {' '.join(texts)}: {error}") from error
    return regions


def _first_seed(argument: int | None) -> int:
    if argument != RANDOM_SEED:
        return argument or 0
    seed = random_seed()
    _say(f"the first seed is {seed}")
    return seed


def _refuse_prompts(args: argparse.Namespace, model: DiffusionModel) -> None:
    """Raise ValueError if a flag gives a prompt that the model would not read."""
    flags = {"--prompt": args.prompt, "--negative-prompt": args.negative_prompt}
    prompt_flags = [flag for flag, value in flags.items() if value]
    if prompt_flags and "prompt" not in needed_ids(model):
        ids = ", ".join(needed_ids(model)) or "nothing"
        raise ValueError(f"{prompt_flags[0]}: the model reads no 'prompt'; it reads {ids}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
