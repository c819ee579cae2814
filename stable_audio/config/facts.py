"""What the rules need to know of the parts of a model: widths, ratios, what building them complains of."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from stable_audio.backbones.base import Backbone
from stable_audio.conditioning import Conditioner
from stable_audio.config.agreement import disagreement_problems
from stable_audio.config.diffusion import (
    AnyBackbone,
    AnyConditioner,
    AnyUncondBackbone,
    DiffusionAutoencoderModel,
    DiffusionKeys,
    UncondKeys,
)
from stable_audio.config.findings import UNKNOWN, findings_of
from stable_audio.config.parts import (
    TooLargeError,
    build_autoencoder,
    build_backbone,
    build_conditioner,
    build_diffusion_autoencoder,
    build_objective,
    build_pretransform,
    build_uncond_backbone,
    on_meta,
)
from stable_audio.config.pretransform import AutoencoderModel
from stable_audio.config.pretransform import Pretransform as PretransformType
from stable_audio.config.problems import Loc, Problem, json_path, shown, value_at
from stable_audio.diffusion.objectives import Objective
from stable_audio.model import DiffusionAutoencoder
from stable_audio.pretransforms import Autoencoder, Pretransform
from stable_audio.pretransforms.agreement import PartsDisagreeError

log = logging.getLogger(__name__)


@dataclass
class Facts:
    """Parts of a model on the meta device; a part that cannot be built is None, and `problems` says why.

    Attributes:
        widths: conditioner id -> features (or channels) that it returns, where known.
    """

    backbone: Backbone | None = None
    objective: Objective | None = None
    autoencoder: Autoencoder | DiffusionAutoencoder | None = None
    pretransform: Pretransform | None = None
    conditioners: dict[str, Conditioner] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def widths(self) -> dict[str, int]:
        return {key: conditioner.output_dim for key, conditioner in self.conditioners.items()}


def gather(data: Mapping[str, Any]) -> Facts:
    """Build each part of `model` that is valid by itself, so that one mistake does not hide another."""
    facts, model = Facts(), data.get("model")
    if not isinstance(model, dict):
        return facts
    if data.get("model_type") == "autoencoder":
        facts.autoencoder = _try(facts, ("model",), model, AutoencoderModel, build_autoencoder)
        return facts
    if data.get("model_type") == "diffusion_autoencoder":
        build = build_diffusion_autoencoder
        facts.autoencoder = _try(facts, ("model",), model, DiffusionAutoencoderModel, build)
        return facts
    if data.get("model_type") == "diffusion_uncond":
        _gather_uncond(facts, model)
    else:
        loc: Loc = ("model", "diffusion")
        section = model.get("diffusion")
        facts.backbone = _try(facts, (*loc, "config"), section, AnyBackbone, build_backbone)
        _gather_objective(facts, loc, section)
    section = model.get("pretransform")
    loc = ("model", "pretransform", "config")
    facts.pretransform = _try(facts, loc, section, PretransformType, build_pretransform)
    known = section is None or facts.pretransform is not None
    _gather_conditioners(facts, model.get("conditioning"), pretransform_known=known)
    return facts


def _gather_uncond(facts: Facts, model: dict[str, Any]) -> None:
    if "diffusion" in model:
        loc: Loc = ("model", "diffusion")
        section: Any = model["diffusion"]
    else:
        loc = ("model",)
        section = {k: v for k, v in model.items() if k not in UncondKeys.model_fields}
    facts.backbone = _try(facts, (*loc, "config"), section, AnyUncondBackbone, build_uncond_backbone)
    _gather_objective(facts, loc, section)


def _gather_objective(facts: Facts, loc: Loc, section: Any) -> None:
    if isinstance(section, dict):
        keys = {k: section[k] for k in DiffusionKeys.model_fields if k in section}
        loc = (*loc, "diffusion_process" if "diffusion_process" in keys else "diffusion_objective")
        facts.objective = _try(facts, loc, keys, DiffusionKeys, build_objective)


def _gather_conditioners(facts: Facts, conditioning: Any, *, pretransform_known: bool) -> None:
    if not isinstance(conditioning, dict) or not isinstance(conditioning.get("configs"), list):
        return
    cond_dim: Any = conditioning.get("cond_dim")

    def build(entry: Any) -> Conditioner:
        return build_conditioner(entry, cond_dim=cond_dim, pretransform=facts.pretransform)

    for index, entry in enumerate(conditioning["configs"]):
        loc = ("model", "conditioning", "configs", index, "config")
        options = entry.get("config") if isinstance(entry, dict) else None
        if isinstance(options, dict) and options.get("use_model_pretransform") and not pretransform_known:
            continue
        if isinstance(cond_dim, int) and cond_dim > 0:
            made = _try(facts, loc, entry, AnyConditioner, build)
            if made is not None:
                facts.conditioners[entry["id"]] = made


def _try(facts: Facts, loc: Loc, data: Any, schema: Any, build: Callable[[Any], Any]) -> Any:
    """The part, or None: sections that the schema refuses are reported by the schema, not here."""
    section = _valid(data, schema)
    if section is None:
        return None
    try:
        return on_meta(build, section)
    except TooLargeError as error:
        facts.problems.append(
            Problem(json_path(loc), f"{error}; the largest numbers there: {_largest(data)}")
        )
        return None
    except PartsDisagreeError as error:
        section_loc = loc[:-1] if loc[-1] == "config" else loc
        facts.problems += disagreement_problems(error, data, section_loc)
        return None
    # A constructor may fail in any way on values that its types allow; each must become one sentence.
    except Exception as error:
        facts.problems.append(Problem(json_path(loc), _sentence(error, data)))
        return None


def _largest(data: Any, count: int = 3) -> str:
    """The whole numbers and the lists of a section that decide its size, with their keys."""
    sizes = sorted(_sizes(data, ()), key=lambda s: -s[0])[:count]
    return ", ".join(f"{json_path(loc).removeprefix('$.')} {text}" for _, loc, text in sizes)


def _sizes(value: Any, loc: Loc) -> Iterator[tuple[float, Loc, str]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _sizes(part, (*loc, key))
    elif isinstance(value, list):
        yield len(value), loc, f"({len(value)} entries)"
        for index, part in enumerate(value):
            yield from _sizes(part, (*loc, index))
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1:
        yield value, loc, shown(value, 24)


def _valid(data: Any, schema: Any) -> Any:
    """The section without its unknown keys, which the schema reports; None if more is wrong with it."""
    data = copy.deepcopy(data)
    while True:
        try:
            return TypeAdapter(schema).validate_json(json.dumps(data))
        except ValidationError as error:
            found = findings_of(error, schema, data)
        if any(f.kind != UNKNOWN for f in found):
            return None
        for finding in found:
            value_at(data, finding.loc[:-1]).pop(finding.loc[-1], None)


def _sentence(error: Exception, data: Any) -> str:
    text = " ".join(str(error).split()) or "no reason given"
    if isinstance(error, (ValueError, ImportError, OSError)):
        return text
    log.debug("a part of the model cannot be built", exc_info=error)
    suspects = _suspects(data)
    # What torch and Python say of such numbers speaks of their own insides.
    reason = f"look at {suspects}" if suspects else f"{type(error).__name__}: {shown(text, 200)}"
    return f"cannot be built with these values: {reason}"


UNUSUAL = 1_000_000
"""A whole number above this is hardly the size of a layer."""


def _suspects(data: Any, count: int = 3) -> str:
    """The whole numbers of a section that are below 1 or very large, with their keys."""
    numbers = [s for s in _sizes(data, ()) if not s[2].startswith("(")]
    below = [s for s in numbers if s[0] < 1]
    above = sorted((s for s in numbers if s[0] > UNUSUAL), key=lambda s: -s[0])
    chosen = [*(s for s in below if s[0] < 0), *above, *(s for s in below if s[0] == 0)][:count]
    return ", ".join(f"{json_path(loc).removeprefix('$.')} {text}" for _, loc, text in chosen)
