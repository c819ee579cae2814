"""Build each part of a model file on the meta device, for the rules, and collect the errors of building."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from stable_audio.conditioning import Conditioner
from stable_audio.config.reading.validation import valid_section
from stable_audio.config.reporting.numbers import largest, suspects, values
from stable_audio.config.reporting.problems import Loc, Problem, json_path
from stable_audio.config.reporting.reasons import reason_for_people
from stable_audio.config.rules.agreement import disagreement_problems
from stable_audio.config.rules.facts import Facts
from stable_audio.config.schemas.options import option_mistakes
from stable_audio.config.sections.diffusion import (
    AnyBackbone,
    AnyConditioner,
    AnyUncondBackbone,
    DiffusionAutoencoderModel,
    DiffusionKeys,
    UncondKeys,
    objective_options,
)
from stable_audio.config.sections.pretransform import AutoencoderModel, Pretransform
from stable_audio.config.sections.shift import any_shift, shift_from
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.factory.backbones import build_backbone, build_objective, build_uncond_backbone
from stable_audio.factory.conditioning import build_conditioner
from stable_audio.factory.loss_facts import parts_of_training
from stable_audio.factory.meta import TooLargeError, on_meta
from stable_audio.factory.pretransforms import (
    build_autoencoder,
    build_diffusion_autoencoder,
    build_pretransform,
)
from stable_audio.pretransforms.agreement import PartsDisagreeError
from stable_audio.wording import excerpt

log = logging.getLogger(__name__)


def gather(data: Mapping[str, Any]) -> Facts:
    """Build each part of `model` that is valid by itself, so that one mistake does not hide another."""
    facts, model = Facts(), data.get("model")
    if not isinstance(model, dict):
        return facts
    if data.get("model_type") == "autoencoder":
        facts.autoencoder = _try(facts, ("model",), model, AutoencoderModel, build_autoencoder)
        for part in parts_of_training(data):
            _try(facts, *part)
        return facts
    if data.get("model_type") == "diffusion_autoencoder":
        facts.autoencoder = _try(
            facts, ("model",), model, DiffusionAutoencoderModel, build_diffusion_autoencoder
        )
        return facts
    if data.get("model_type") == "diffusion_uncond":
        _gather_uncond(facts, model)
    else:
        loc: Loc = ("model", "diffusion")
        section = model.get("diffusion")
        facts.backbone = _try(facts, (*loc, "config"), section, AnyBackbone, build_backbone)
        _gather_objective(facts, loc, section)
        _try_shifts(facts, loc, section)
    section = model.get("pretransform")
    loc = ("model", "pretransform", "config")
    facts.pretransform = _try(facts, loc, section, Pretransform, build_pretransform)
    pretransform_known = section is None or facts.pretransform is not None
    _gather_conditioners(facts, model.get("conditioning"), pretransform_known=pretransform_known)
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
    _try_shifts(facts, loc, section)


def _try_shifts(facts: Facts, loc: Loc, section: Any) -> None:
    """Build the shifts of t; no rule compares them with anything."""
    if isinstance(section, dict):
        for key in ("distribution_shift_options", "sampling_distribution_shift_options"):
            _try(facts, (*loc, key), section.get(key), any_shift(), shift_from)


def _gather_objective(facts: Facts, loc: Loc, section: Any) -> None:
    if isinstance(section, dict):
        keys = {k: section[k] for k in DiffusionKeys.model_fields if k in section}
        if _options_are_wrong(keys):
            return
        loc = (*loc, "diffusion_process" if "diffusion_process" in keys else "diffusion_objective")
        facts.objective = _try(facts, loc, keys, DiffusionKeys, build_objective)


def _options_are_wrong(keys: Mapping[str, Any]) -> bool:
    """Whether the rule about options of objectives says what is wrong."""
    name, options = keys.get("diffusion_objective", "v"), keys.get("diffusion_objective_options", {})
    known = isinstance(name, str) and name in OBJECTIVES and isinstance(options, dict)
    return known and bool(option_mistakes(objective_options(name), options))


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
            conditioner = _try(facts, loc, entry, AnyConditioner, build)
            if conditioner is not None:
                facts.conditioners[entry["id"]] = conditioner


def _try(facts: Facts, loc: Loc, data: Any, schema: Any, build: Callable[[Any], Any]) -> Any:
    """Build a part; None if that fails. Sections that the schema refuses are reported by the schema."""
    section = valid_section(data, schema)
    if section is None:
        return None
    try:
        return on_meta(build, section)
    except TooLargeError as error:
        facts.problems.append(Problem(json_path(loc), f"{error}; the largest numbers there: {largest(data)}"))
        return None
    except PartsDisagreeError as error:
        section_loc = loc[:-1] if loc[-1] == "config" else loc
        facts.problems += disagreement_problems(error, data, section_loc)
        return None
    # A constructor may raise anything for values that its types allow; each must become one sentence.
    except Exception as error:
        facts.problems.append(Problem(json_path(loc), _sentence(error, data)))
        return None


def _sentence(error: Exception, data: Any) -> str:
    if (reason := reason_for_people(error)) is not None:
        return reason
    log.debug("a part of the model cannot be built", exc_info=error)
    numbers = suspects(data)
    if not numbers and "overflow" in str(error):
        return f"is too large to be built; the largest numbers there: {largest(data)}"
    return f"cannot be built with these values: look at {numbers or values(data) or excerpt(data)}"
