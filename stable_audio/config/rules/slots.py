"""What must hold between conditioners and the slots of the backbone: ids, widths, layouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stable_audio.backbones import BACKBONES
from stable_audio.conditioning.base import Layout
from stable_audio.config.reporting.problems import Loc, json_path
from stable_audio.config.rules.context import Context, dicts, mapping
from stable_audio.config.schemas.leaf import leaf_model
from stable_audio.config.sections.diffusion import SLOT_KEYS
from stable_audio.types import Slot
from stable_audio.wording import did_you_mean, names

MODULAR: Loc = ("model", "diffusion", "modular_local_cond_configs")


def slot_ids_exist(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Every id in a slot has a conditioner, is pre-encoded, or comes from inpainting."""
    for slot, key in SLOT_KEYS.items() if ctx.ids_are_readable else ():
        for index, name in enumerate(ctx.slot_ids(slot)):
            if name not in ctx.known_ids:
                hint = did_you_mean(name, ctx.known_ids)
                message = f"'{name}' has no conditioner in model.conditioning.configs; {hint}"
                yield ("model", "diffusion", key, index), message


def conditioner_ids_differ(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """No two conditioners share an id."""
    ids: set[str] = set()
    for index, entry in enumerate(dicts(ctx.get("model", "conditioning", "configs", default=[]))):
        name = entry.get("id")
        if isinstance(name, str) and name in ids:
            yield (
                ("model", "conditioning", "configs", index, "id"),
                f"'{name}' is used twice; ids must differ",
            )
        if isinstance(name, str):
            ids.add(name)
            if "." in name:
                message = f"found '{name}'; an id may not contain a dot, since it names a module"
                yield ("model", "conditioning", "configs", index, "id"), message


def default_keys_belong_to_conditioners(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """default_keys name ids that exist."""
    ids = [*ctx.conditioner_ids, *ctx.pre_encoded_ids]
    for name in mapping(ctx.get("model", "conditioning", "default_keys", default={})):
        if name not in ids and ctx.ids_are_readable:
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
        f"{served or 'none'}); {_slot_to_open(ctx, slot)}empty this list"
    )


def _slot_to_open(ctx: Context, slot: Slot) -> str:
    """Advice to set the key that makes the backbone read a slot, as part of a sentence; '' without one."""
    cls = BACKBONES.get(str(ctx.get("model", "diffusion", "type")))
    fields = leaf_model(cls).model_fields if cls is not None else {}  # type: ignore[arg-type]
    key = next((k for k in WIDTH_KEYS[slot] if k[0] in fields and k[-1] != 0), None)
    widths = [ctx.width(name) for name in ctx.slot_ids(slot)]
    if key is None or not widths or None in widths:
        return ""
    joined = slot is Slot.GLOBAL or slot.has_frames
    width = sum(w or 0 for w in widths) if joined else widths[0]
    return f"set {json_path(('model', 'diffusion', 'config', *key))}: {width}, or "


def slots_are_filled(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Every slot that the backbone requires has ids."""
    backbone = ctx.facts.backbone
    if backbone is None:
        return
    if ctx.data.get("model_type") == "diffusion_uncond":
        if backbone.required_slots:
            slots = names(sorted(s.value for s in backbone.required_slots))
            message = f"the backbone needs {slots}, which an unconditional model does not have; leave the "
            yield (*ctx.diffusion_loc, "config"), message + "widths of these slots out, or use diffusion_cond"
        return
    for slot in sorted(backbone.required_slots, key=lambda s: s.value):
        if not ctx.slot_ids(slot):
            message = f"the backbone needs the slot '{slot.value}': list at least one id"
            yield ("model", "diffusion", SLOT_KEYS[slot]), message


def slot_widths_agree(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Conditioners have the width of their slot: each one in a sequence, their sum where they are joined."""
    backbone = ctx.facts.backbone
    for slot, width in backbone.slot_widths.items() if backbone is not None else ():
        widths = {name: ctx.width(name) for name in ctx.slot_ids(slot)}
        loc = ("model", "diffusion", SLOT_KEYS[slot])
        if width is None or not widths:
            continue
        if slot in (Slot.CROSS_ATTN, Slot.PREPEND):
            wrong = {n: w for n, w in widths.items() if w is not None and w != width}
            if wrong:
                yield (
                    loc,
                    f"the backbone takes tokens {width} wide in '{slot.value}', but found {_sizes(wrong)}"
                    f"{_width_to_set(ctx, slot, width, {w for w in widths.values() if w is not None})}",
                )
        elif None not in widths.values():
            total = sum(ctx.width(n) or 0 for n in ctx.slot_ids(slot))
            if total != width:
                message = f"{_sizes(widths)} sum to {total}, but the backbone takes {width} in '{slot.value}'"
                yield loc, message + _width_to_set(ctx, slot, width, {total})


WIDTH_KEYS: dict[Slot, tuple[Loc, ...]] = {
    Slot.CROSS_ATTN: (("cond_token_dim",), ("context_embedding_features",), ("cross_attn", "dim")),
    Slot.GLOBAL: (("global_cond_dim",), ("context_features",), ("global_cond", "dim")),
    Slot.PREPEND: (("prepend_cond_dim",), ("prepend", "dim")),
    Slot.INPUT_CONCAT: (
        ("input_concat_dim",),
        ("cond_dim",),
        ("context_channels", 0),
        ("input_concat", "dim"),
    ),
    Slot.LOCAL_ADD: (("local_add_cond_dim",),),
}
"""Slot -> the keys of a backbone's config that may hold its width."""


def _width_to_set(ctx: Context, slot: Slot, slot_width: int, widths: set[int]) -> str:
    """The change that makes the widths agree, as the second half of a sentence."""
    config = (*ctx.diffusion_loc, "config")
    key = next((k for k in WIDTH_KEYS[slot] if ctx.get(*config, *k) == slot_width), None)
    if len(widths) != 1:
        return f"; give those conditioners output_dim {slot_width}"
    if key is None:
        return ""
    return f"; set {json_path((*config, *key))}: {widths.pop()}, or make the conditioners {slot_width} wide"


def mechanisms_name_the_ids(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """`mechanisms` of a backbone have the ids of the global slot, in that order, and their widths."""
    widths = ctx.facts.backbone.global_widths if ctx.facts.backbone is not None else {}
    ids, loc = ctx.slot_ids(Slot.GLOBAL), ("model", "diffusion", "config", "mechanisms")
    if not widths or not ids:
        return
    if list(widths) != ids:
        message = (
            f"found the ids {names(widths)}, but global_cond_ids is {names(ids)}: give the same, in order"
        )
        yield loc, message
        return
    for name, dim in widths.items():
        if ctx.width(name) not in (None, dim):
            message = f"found {dim}, but the conditioner '{name}' gives {ctx.width(name)} features"
            yield (*loc, name, "dim"), message


def slots_take_the_layout(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Every slot gets a layout that it can read: a sequence, one vector, or channels over time."""
    for slot, key in SLOT_KEYS.items():
        for index, name in enumerate(ctx.slot_ids(slot)):
            conditioner = ctx.facts.conditioners.get(name)
            if conditioner is not None and conditioner.layout not in _LAYOUTS[slot]:
                advice = _ADVICE[conditioner.layout]
                yield ("model", "diffusion", key, index), f"'{name}' {advice.format(slot=slot.value)}"


_LAYOUTS: dict[Slot, tuple[Layout, ...]] = {
    Slot.CROSS_ATTN: ("tokens", "vector"),
    Slot.PREPEND: ("tokens", "vector"),
    Slot.GLOBAL: ("vector",),
    Slot.INPUT_CONCAT: ("frames", "vector"),
    Slot.LOCAL_ADD: ("frames", "vector"),
}
_ADVICE: dict[Layout, str] = {
    "frames": "gives frames for the slot 'input_concat': list it there, or in local_add_cond_ids",
    "tokens": "gives a sequence of tokens, which the slot '{slot}' cannot read: list it in "
    "cross_attention_cond_ids or prepend_cond_ids, or use a conditioner that gives one vector ('clip_text' "
    'with "pooled": true)',
}


def conditioners_are_used(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Warns of conditioners that no slot lists."""
    wired = {name for slot in SLOT_KEYS for name in ctx.slot_ids(slot)} | set(ctx.modular_ids)
    for index, entry in enumerate(dicts(ctx.get("model", "conditioning", "configs", default=[]))):
        if isinstance(entry.get("id"), str) and entry["id"] not in wired:
            yield ("model", "conditioning", "configs", index), f"'{entry['id']}' is wired to no slot"


def modular_widths_agree(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Every entry of modular_local_cond_configs has an id of its own and the channels of its conditioner."""
    for index, (name, dim) in enumerate(zip(ctx.modular_ids, ctx.modular_dims)):
        if name and name in ctx.modular_ids[:index]:
            yield (*MODULAR, index, "id"), f"'{name}' is listed twice; list each id once"
        width, conditioner = ctx.width(name), ctx.facts.conditioners.get(name)
        if width is not None and dim is not None and width != dim:
            yield (*MODULAR, index, "dim"), f"found {dim}, but '{name}' gives {width} channels: set {width}"
        if conditioner is not None and conditioner.layout == "tokens":
            message = f"'{name}' gives a sequence of tokens, but frames or one vector are needed; "
            yield (*MODULAR, index, "id"), message + "list it in cross_attention_cond_ids"


def padding_can_be_masked(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """A backbone whose attention takes no padding mask is not asked to mask padding."""
    backbone = ctx.facts.backbone
    for section in (("model", "diffusion"), ("training",)):
        loc = (*section, "mask_padding_attention")
        if ctx.get(*loc) is True and backbone is not None and not backbone.masks_padding:
            message = (
                f"backbone '{ctx.get('model', 'diffusion', 'type')}' as configured cannot hide padding from "
            )
            yield loc, message + "attention; only 'dit' with its own transformer can: set it to false"


def local_layers_are_used(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Warns of layers for local conditioning that nothing is wired to."""
    for index, name in enumerate(ctx.modular_ids):
        if name and name not in ctx.known_ids and ctx.ids_are_readable:
            hint = did_you_mean(name, ctx.known_ids)
            message = f"'{name}' has no conditioner in model.conditioning.configs, so it adds nothing; {hint}"
            yield (*MODULAR, index, "id"), message
    loc: Loc = ("model", "diffusion", "config", "local_add_cond_dim")
    dim = ctx.get(*loc)
    if isinstance(dim, int) and dim > 0 and not ctx.slot_ids(Slot.LOCAL_ADD):
        yield loc, f"found {dim}, but local_add_cond_ids is empty, so these layers have no effect"


def _sizes(widths: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {width}" for name, width in widths.items())
