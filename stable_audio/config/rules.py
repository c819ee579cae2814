"""What must hold between the keys of a model file. Each rule names the keys it looked at and the numbers.

Rules read plain data, tolerantly, so that they also run on files whose structure is partly wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from stable_audio.config.diffusion import SLOT_KEYS
from stable_audio.config.facts import Facts
from stable_audio.config.findings import findings_of
from stable_audio.config.leaf import Leaf, arguments, leaf_model
from stable_audio.config.problems import Loc, Problem, did_you_mean, json_path, names
from stable_audio.diffusion.timesteps import TIMESTEP_SAMPLERS
from stable_audio.types import Slot

INPAINT_IDS = ("inpaint_mask", "inpaint_masked_input")
"""Ids that inpainting itself fills: the mask (1 channel) and the masked latents."""


@dataclass(frozen=True)
class Context:
    """What a rule sees: the file, its parts, and the ids that the caller supplies as tensors."""

    data: Mapping[str, Any]
    facts: Facts
    extra_ids: tuple[str, ...] = ()

    def get(self, *loc: str | int, default: Any = None) -> Any:
        """The value at `loc`, or `default` where the way to it is missing or wrong."""
        value: Any = self.data
        for part in loc:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return default
        return default if value is None else value

    @property
    def is_inpaint(self) -> bool:
        return self.data.get("model_type") == "diffusion_cond_inpaint"

    @property
    def conditioner_ids(self) -> list[str]:
        """Ids with a conditioner, in order, repetitions included."""
        entries = self.get("model", "conditioning", "configs", default=[])
        return [e["id"] for e in _dicts(entries) if isinstance(e.get("id"), str)]

    @property
    def pre_encoded_ids(self) -> list[str]:
        return _strings(self.get("model", "conditioning", "pre_encoded_keys", default=[]))

    @property
    def known_ids(self) -> list[str]:
        """Every id that may be wired to a slot."""
        inpaint = INPAINT_IDS if self.is_inpaint else ()
        return [*dict.fromkeys([*self.conditioner_ids, *self.pre_encoded_ids, *inpaint, *self.extra_ids])]

    def slot_ids(self, slot: Slot) -> list[str]:
        """The ids wired to a slot."""
        return _strings(self.get("model", "diffusion", SLOT_KEYS[slot], default=[]))

    def width(self, key: str) -> int | None:
        """Features or channels of an id, None where only the metadata will tell."""
        if key in self.pre_encoded_ids or key in self.extra_ids:
            return None
        if self.is_inpaint and key in INPAINT_IDS:
            channels = self.get("model", "io_channels")
            return 1 if key == INPAINT_IDS[0] else channels if isinstance(channels, int) else None
        return self.facts.widths.get(key)


Rule = Callable[[Context], Iterator[tuple[Loc, str]]]


def slot_ids_exist(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Every id in a slot has a conditioner, is pre-encoded, or comes from inpainting."""
    for slot, key in SLOT_KEYS.items():
        for index, name in enumerate(ctx.slot_ids(slot)):
            if name not in ctx.known_ids:
                hint = did_you_mean(name, ctx.known_ids)
                message = f"'{name}' has no conditioner in model.conditioning.configs; {hint}"
                yield ("model", "diffusion", key, index), message


def conditioner_ids_differ(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """No two conditioners share an id."""
    seen: set[str] = set()
    for index, entry in enumerate(_dicts(ctx.get("model", "conditioning", "configs", default=[]))):
        name = entry.get("id")
        if isinstance(name, str) and name in seen:
            yield (
                ("model", "conditioning", "configs", index, "id"),
                f"'{name}' is used twice; ids must differ",
            )
        if isinstance(name, str):
            seen.add(name)
            if "." in name:
                message = f"found '{name}'; an id may not contain a dot, since it names a module"
                yield ("model", "conditioning", "configs", index, "id"), message


def default_keys_belong_to_conditioners(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """default_keys are given for ids that exist."""
    ids = [*ctx.conditioner_ids, *ctx.pre_encoded_ids]
    for name in _mapping(ctx.get("model", "conditioning", "default_keys", default={})):
        if name not in ids:
            loc = ("model", "conditioning", "default_keys", name)
            yield loc, f"'{name}' is no conditioner id; {did_you_mean(name, ids)}"


def slots_are_served(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """The backbone reads every slot that ids are wired to."""
    backbone = ctx.facts.backbone
    for slot, key in SLOT_KEYS.items() if backbone is not None else ():
        if ctx.slot_ids(slot) and slot not in backbone.slots:  # type: ignore[union-attr]
            yield ("model", "diffusion", key), _not_served(ctx, slot)


def _not_served(ctx: Context, slot: Slot) -> str:
    kind, backbone = ctx.get("model", "diffusion", "type"), ctx.facts.backbone
    served = names(sorted(s.value for s in backbone.slots)) if backbone is not None else ""
    return (
        f"backbone '{kind}' as configured does not read the slot '{slot.value}' (it reads: "
        f"{served or 'none'}); "
        f"set the width of that slot in model.diffusion.config or empty this list"
    )


def slots_are_filled(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Slots without which the backbone cannot run have ids."""
    backbone = ctx.facts.backbone
    if backbone is None or ctx.data.get("model_type") == "diffusion_uncond":
        return
    for slot in sorted(backbone.required_slots, key=lambda s: s.value):
        if not ctx.slot_ids(slot):
            message = f"the backbone needs the slot '{slot.value}': list at least one id"
            yield ("model", "diffusion", SLOT_KEYS[slot]), message


def slot_widths_agree(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Conditioners are as wide as their slot: each one in a sequence, summed where they are joined."""
    backbone = ctx.facts.backbone
    for slot, wanted in backbone.slot_widths.items() if backbone is not None else ():
        widths = {name: ctx.width(name) for name in ctx.slot_ids(slot)}
        loc = ("model", "diffusion", SLOT_KEYS[slot])
        if wanted is None or not widths:
            continue
        if slot in (Slot.CROSS_ATTN, Slot.PREPEND):
            wrong = {n: w for n, w in widths.items() if w is not None and w != wanted}
            if wrong:
                yield (
                    loc,
                    f"the backbone takes tokens {wanted} wide in '{slot.value}', but found {_sizes(wrong)}",
                )
        elif None not in widths.values():
            total = sum(ctx.width(n) or 0 for n in ctx.slot_ids(slot))
            if total != wanted:
                message = (
                    f"{_sizes(widths)} sum to {total}, but the backbone takes {wanted} in '{slot.value}'"
                )
                yield loc, message


def channels_agree(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """io_channels is what the backbone and the pretransform have."""
    backbone, pretransform = ctx.facts.backbone, ctx.facts.pretransform
    uncond = ctx.data.get("model_type") == "diffusion_uncond"
    channels = backbone.io_channels if uncond and backbone is not None else ctx.get("model", "io_channels")
    if not isinstance(channels, int):
        return
    if backbone is not None and backbone.io_channels != channels:
        message = f"found {channels}, but the backbone has {backbone.io_channels} (model.diffusion.config)"
        yield ("model", "io_channels"), message
    if pretransform is not None and pretransform.encoded_channels != channels:
        yield (
            ("model", "config") if uncond else ("model", "io_channels"),
            f"found {channels} channels, but the pretransform encodes to {pretransform.encoded_channels}",
        )


def sample_size_fits(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """A training clip is a whole number of latent frames, and those a whole number of backbone steps."""
    size, facts = ctx.data.get("sample_size"), ctx.facts
    if not isinstance(size, int) or isinstance(size, bool) or size <= 0 or facts.backbone is None:
        return
    if ctx.get("model", "pretransform") is not None and facts.pretransform is None:
        return
    ratio = facts.pretransform.downsampling_ratio if facts.pretransform is not None else 1
    step = ratio * facts.backbone.length_multiple
    if size % step:
        below = size // step * step
        near = f"{below} or {below + step}" if below else str(step)
        yield (
            ("sample_size",),
            (
                f"found {size}, which is not a multiple of {step} = {ratio} (samples per latent frame) x "
                f"{facts.backbone.length_multiple} (backbone); use {near}"
            ),
        )


def has_an_optimizer(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """A training section says how fast to learn."""
    training = ctx.data.get("training")
    if isinstance(training, dict) and not {"learning_rate", "optimizer_configs"} & set(training):
        yield ("training", "learning_rate"), "missing; give learning_rate or optimizer_configs"


def timestep_options_fit(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """timestep_sampler_options are keywords of the chosen timestep sampler."""
    name = ctx.get("training", "timestep_sampler", default="uniform")
    options = ctx.get("training", "timestep_sampler_options", default={})
    if name not in TIMESTEP_SAMPLERS or not isinstance(options, dict):
        return
    cls = TIMESTEP_SAMPLERS[name]
    yield from _keywords_fit(("training", "timestep_sampler_options"), cls, options)


def _keywords_fit(loc: Loc, cls: type, options: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
    model: type[Leaf] = leaf_model(cls)
    try:
        cls(**arguments(model.model_validate_json(json.dumps(options))))
    except ValidationError as error:
        for finding in findings_of(error, model, options):
            yield (*loc, *finding.loc), finding.message
    except ValueError as error:
        yield loc, str(error)


def main_loss_is_elementwise(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """The main loss term compares number by number."""
    kind = ctx.get("training", "loss_configs", "diffusion", "type")
    if kind not in (None, *ELEMENTWISE):
        loc = ("training", "loss_configs", "diffusion", "type")
        yield loc, f"found {kind!r}; the main term must be one of {names(ELEMENTWISE)}"


ELEMENTWISE = ("mse", "l1", "huber")


def inpainting_fits(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Inpainting training needs an inpainting model, and mask probabilities sum to 1."""
    section = ctx.get("training", "inpainting")
    if section is not None and not ctx.is_inpaint:
        yield ("training", "inpainting"), "only model_type 'diffusion_cond_inpaint' trains inpainting"
    loc = ("training", "inpainting", "mask_kwargs", "mask_type_probabilities")
    shares = ctx.get(*loc, default=[])
    numbers = isinstance(shares, list) and all(isinstance(s, (int, float)) for s in shares)
    if numbers and len(shares) == 3 and abs(sum(shares) - 1) > 1e-6:
        yield loc, f"found {shares}, which sum to {sum(shares):g}; they must sum to 1"


def demos_are_complete(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """As many demo_cond as num_demos, each with every key that the model needs."""
    conds, count = ctx.get("training", "demo", "demo_cond"), ctx.get("training", "demo", "num_demos")
    if not isinstance(conds, list):
        conds = None
    if isinstance(count, int) and count > 0 and len(conds or ()) != count and _needs_demo_cond(ctx, conds):
        given = len(conds or ())
        message = f"found {count}, but demo_cond has {given} entries; leave num_demos out to use them all"
        yield ("training", "demo", "num_demos"), message
    defaults = _mapping(ctx.get("model", "conditioning", "default_keys", default={}))
    for index, cond in enumerate(conds or ()):
        if not isinstance(cond, dict):
            continue
        needed = [
            i for i in dict.fromkeys(ctx.conditioner_ids) if i not in cond and defaults.get(i) not in cond
        ]
        if needed:
            loc = ("training", "demo", "demo_cond", index)
            yield loc, f"lacks {names(needed)}, which the model's conditioners read"


def _needs_demo_cond(ctx: Context, conds: list[Any] | None) -> bool:
    # Inpainting demos may come from the training batch, and models without conditioners need nothing.
    return conds is not None or (bool(ctx.conditioner_ids) and not ctx.is_inpaint)


RULES: dict[str, Rule] = {
    "slot_ids": slot_ids_exist,
    "conditioner_ids": conditioner_ids_differ,
    "default_keys": default_keys_belong_to_conditioners,
    "slots_served": slots_are_served,
    "slots_filled": slots_are_filled,
    "slot_widths": slot_widths_agree,
    "channels": channels_agree,
    "sample_size": sample_size_fits,
    "optimizer": has_an_optimizer,
    "timestep_options": timestep_options_fit,
    "main_loss": main_loss_is_elementwise,
    "inpainting": inpainting_fits,
    "demos": demos_are_complete,
}
"""Rule by name; a caller may skip some, such as `sample_size` when only weights matter."""


def check_rules(ctx: Context, *, skip: Sequence[str] = ()) -> list[Problem]:
    """Every violation of every rule."""
    return [
        Problem(json_path(loc), message)
        for name, rule in RULES.items()
        if name not in skip
        for loc, message in rule(ctx)
    ]


def _sizes(widths: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {width}" for name, width in widths.items())


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [v if isinstance(v, dict) else {} for v in value] if isinstance(value, list) else []


def _strings(value: Any) -> list[str]:
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
