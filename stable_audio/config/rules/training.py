"""What must hold between the keys of `training`, and between them and the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from stable_audio.config.reporting.fork_names import refused_value
from stable_audio.config.reporting.problems import Loc
from stable_audio.config.reporting.reasons import reason_for_people
from stable_audio.config.rules.context import Context, mapping
from stable_audio.config.schemas.leaf import Leaf, arguments, leaf_model
from stable_audio.config.schemas.options import option_mistakes as keyword_mistakes
from stable_audio.diffusion.timesteps import TIMESTEP_SAMPLERS
from stable_audio.optim import LR_SCHEDULERS, OPTIMIZERS, build_optimizer, build_scheduler, schedule_length
from stable_audio.optim.averaging import AveragingRule
from stable_audio.optim.checks import option_mistakes
from stable_audio.optim.step_limits import StepLimits
from stable_audio.wording import did_you_mean, excerpt, names

ELEMENTWISE = ("mse", "l1", "huber")
ANY_STEPS = 1000
"""Length of the run for building schedulers, since the real one is unknown when a file is checked."""
EMA_RANGE = {key: getattr(AveragingRule, key) for key in ("min_value", "beta")}


def has_an_optimizer(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """A training section has a learning rate or optimizers."""
    training = ctx.data.get("training")
    if isinstance(training, dict) and not {"learning_rate", "optimizer_configs"} & set(training):
        yield ("training", "learning_rate"), "missing; give learning_rate or optimizer_configs"


def timestep_options_fit(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """timestep_sampler_options are keywords of the chosen timestep sampler."""
    name = ctx.get("training", "timestep_sampler", default="uniform")
    options = ctx.get("training", "timestep_sampler_options", default={})
    if not isinstance(name, str) or name not in TIMESTEP_SAMPLERS or not isinstance(options, dict):
        return
    cls = TIMESTEP_SAMPLERS[name]
    yield from _keywords_fit(("training", "timestep_sampler_options"), cls, options)


def _keywords_fit(loc: Loc, cls: type, options: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
    model: type[Leaf] = leaf_model(cls)
    mistakes = keyword_mistakes(model, options)
    for at, message in mistakes:
        yield (*loc, *at), message
    if mistakes:
        return
    try:
        cls(**arguments(model.model_validate_json(json.dumps(options))))
    except ValueError as error:
        yield loc, str(error)


def main_loss_is_elementwise(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """The main loss term is elementwise."""
    kind = ctx.get("training", "loss_configs", "diffusion", "type")
    if kind not in (None, *ELEMENTWISE):
        loc = ("training", "loss_configs", "diffusion", "type")
        yield loc, f"found {kind!r}; the main term must be one of {names(ELEMENTWISE)}"


def inpainting_fits(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """The probabilities of inpainting masks sum to 1."""
    loc = ("training", "inpainting", "mask_kwargs", "mask_type_probabilities")
    shares = ctx.get(*loc, default=[])
    numbers = isinstance(shares, list) and all(isinstance(s, (int, float)) for s in shares)
    if numbers and len(shares) in (3, 4) and abs(sum(shares) - 1) > 1e-6:
        yield loc, f"found {shares}, which sum to {sum(shares):g}; they must sum to 1"


def average_has_a_range(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """The minimum decay of the averaged weights is not above the maximum."""
    minimum, maximum = (ctx.get("training", "ema", key, default=d) for key, d in EMA_RANGE.items())
    if all(isinstance(v, (int, float)) for v in (minimum, maximum)) and minimum > maximum:
        message = f"found {minimum:g}, above beta, the maximum decay, which is {maximum:g}"
        yield ("training", "ema", "min_value"), f"{message}; lower it or raise beta"


def demos_are_complete(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """As many demo_cond as num_demos, each with every key that the model needs."""
    conds, count = ctx.get("training", "demo", "demo_cond"), ctx.get("training", "demo", "num_demos")
    if not isinstance(conds, list):
        conds = None
    if isinstance(count, int) and count > 0 and len(conds or ()) != count and _needs_demo_cond(ctx, conds):
        entries = len(conds or ())
        message = f"found {count}, but demo_cond has {entries} entries; leave num_demos out to use them all"
        yield ("training", "demo", "num_demos"), message
    default_keys = mapping(ctx.get("model", "conditioning", "default_keys", default={}))
    defaults = {k: v for k, v in default_keys.items() if isinstance(v, str)}
    for index, cond in enumerate(conds or ()):
        if not isinstance(cond, dict):
            continue
        absent = [
            i for i in dict.fromkeys(ctx.conditioner_ids) if i not in cond and defaults.get(i) not in cond
        ]
        if absent:
            loc = ("training", "demo", "demo_cond", index)
            yield loc, f"lacks {names(absent)}, which the model's conditioners read"


def inpaint_demos_fit(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Demos of inpainting need a model that inpaints."""
    if ctx.get("training", "demo", "inpaint_demos") and not ctx.is_inpaint:
        message = "only model_type 'diffusion_cond_inpaint' can make a part of a clip anew; leave it out"
        yield ("training", "demo", "inpaint_demos"), message


def padding_has_one_rule(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """mask_padding and mask_loss_weight do not both say what padding counts; some keys need others."""
    training = mapping(ctx.get("training", default={}))
    if training.get("mask_padding") is True and training.get("mask_loss_weight") is not None:
        message = "mask_padding says already that padding does not count; give one of them"
        yield ("training", "mask_loss_weight"), message
    hides = mapping(ctx.get("model", "diffusion", default={})).get("mask_padding_attention")
    hides = hides or training.get("mask_padding_attention")
    extension = training.get("silence_extension_scale_seconds")
    if isinstance(extension, (int, float)) and extension > 0 and not hides:
        message = "needs a model that hides padding from attention: set mask_padding_attention to true"
        yield ("training", "silence_extension_scale_seconds"), message + ", or leave it out"


def _needs_demo_cond(ctx: Context, conds: list[Any] | None) -> bool:
    # Inpainting demos may come from the training batch, and models without conditioners read no metadata.
    if ctx.get("training", "demo", "demo_cond_from_batch") is True:
        return False
    return conds is not None or (bool(ctx.conditioner_ids) and not ctx.is_inpaint)


def released_gradients_are_not_clipped(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """gradient_release leaves no norm of the whole gradient to clip."""
    clip = ctx.get("training", "gradient_clip_val", default=0)
    if ctx.get("training", "gradient_release") is True and isinstance(clip, (int, float)) and clip > 0:
        message = "weights step before the norm of the whole gradient is known, so it cannot be clipped"
        yield ("training", "gradient_release"), f"{message}; set gradient_clip_val to 0, or leave this out"


def guard_can_go_back(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """The guard against bad steps skips no more of them than it counts."""
    skips = ctx.get("training", "guard", "skips", default=StepLimits.skips)
    within = ctx.get("training", "guard", "within", default=StepLimits.within)
    if all(isinstance(v, int) for v in (skips, within)) and skips > within:
        message = f"found {skips}, above within, which is {within}, so that the run never goes back"
        yield ("training", "guard", "skips"), f"{message}; lower it or raise within"


def optimizers_fit(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Optimizers and LR schedulers exist and take their keywords."""
    for name, section in mapping(ctx.get("training", "optimizer_configs", default={})).items():
        loc = ("training", "optimizer_configs", name)
        if isinstance(section, dict):
            yield from _optimizer_fits((*loc, "optimizer"), section.get("optimizer"))
            yield from _scheduler_fits((*loc, "scheduler"), section.get("scheduler"))


def _optimizer_fits(loc: Loc, config: Any) -> Iterator[tuple[Loc, str]]:
    def build() -> Any:
        return build_optimizer(config, [torch.zeros(2, 2, requires_grad=True)])

    yield from _class_fits(loc, config, OPTIMIZERS, build)


def _scheduler_fits(loc: Loc, config: Any) -> Iterator[tuple[Loc, str]]:
    def build() -> Any:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        return build_scheduler(config, optimizer, steps=ANY_STEPS)

    yield from _class_fits(loc, config, LR_SCHEDULERS, build)


def _class_fits(
    loc: Loc, config: Any, classes: Mapping[str, type], build: Callable[[], Any]
) -> Iterator[tuple[Loc, str]]:
    if not isinstance(config, dict) or not isinstance(config.get("type"), str):
        return
    kind = config["type"]
    if kind not in classes:
        if refused_value((*loc, "type"), kind) is None:  # the rule about optimizers of forks says so
            yield (*loc, "type"), f"found {excerpt(kind)}; {did_you_mean(kind, sorted(classes))}"
        return
    options = config.get("config", {})
    mistakes = option_mistakes(classes[kind], options) if isinstance(options, dict) else {}
    for key, message in mistakes.items():
        yield (*loc, "config", key), message
    if mistakes or not isinstance(options, dict):
        return
    try:
        build()
    except ImportError:  # loading for use does not need the package; a run names it before it starts
        return
    # torch raises exceptions of many types for bad values.
    except Exception as error:
        yield (*loc, "config"), _refused_options(kind, options, error)


def _refused_options(kind: str, options: dict[str, Any], error: Exception) -> str:
    reason = reason_for_people(error)
    if reason is not None:
        return f"{kind} refuses these options: {reason}"
    listed = excerpt(options, 200)
    return f"{kind} refuses {listed}: give each option the kind of value that torch documents for it"


def optimizers_are_built(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Optimizers that later versions and forks have, and that are not built here, are not asked for."""
    for name in mapping(ctx.get("training", "optimizer_configs", default={})):
        loc = ("training", "optimizer_configs", name, "optimizer", "type")
        kind = ctx.get(*loc)
        known = not isinstance(kind, str) or kind in OPTIMIZERS
        refused = None if known else refused_value(loc, kind)
        if refused is not None:
            yield loc, refused


def schedules_last(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Warns of an LR schedule that ends before the section's own max_steps."""
    steps = ctx.get("training", "max_steps")
    if not isinstance(steps, int) or isinstance(steps, bool):
        return
    configs = mapping(ctx.get("training", "optimizer_configs", default={}))
    if "discriminator" in mapping(ctx.get("training", "loss_configs", default={})):
        steps = -(-steps // 2)  # the two networks take turns
    for name, section in configs.items():
        scheduler = mapping(section).get("scheduler")
        try:
            length = schedule_length(scheduler) if isinstance(scheduler, dict) else None
        except (AttributeError, TypeError, ValueError):
            continue  # another rule says what is wrong with it
        if length is not None and length < steps:
            loc = ("training", "optimizer_configs", name, "scheduler", "config", "total_steps")
            yield loc, f"the schedule ends after {length} steps, but {steps} are to be taken; leave it out"


def teacher_has_weights(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """A teacher model needs weights."""
    training = mapping(ctx.get("training", default={}))
    if training.get("teacher_model") is not None and not training.get("teacher_model_ckpt"):
        yield ("training", "teacher_model_ckpt"), "missing; teacher_model needs its weights"


def one_learning_rate(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Warns of a learning rate that optimizer_configs overrides."""
    if {"learning_rate", "optimizer_configs"} <= set(mapping(ctx.get("training", default={}))):
        yield ("training", "learning_rate"), "not used, since optimizer_configs is given"
