"""The body of a request to generate: the keys of a line of `stable-audio generate --prompts`."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, TypeVar

from annotated_types import Gt, MaxLen
from pydantic import Field, ValidationError

from stable_audio.audio.json_files import JsonError, each_key_once, parse_json_object
from stable_audio.characters import fault
from stable_audio.config.reporting.findings import UNKNOWN, Finding, findings_of
from stable_audio.config.reporting.problems import Loc, json_path
from stable_audio.config.schemas.leaf import Section, keys_of
from stable_audio.inference.generation.settings import Sampling
from stable_audio.inference.rendering.edits import Edit
from stable_audio.inference.rendering.finishing import Finishing
from stable_audio.interface.service.errors import ServiceError
from stable_audio.interface.service.files import Format, Subtype
from stable_audio.wording import did_you_mean

S = TypeVar("S", bound=Section)

MAX_SEED = 2**63 - 1

Seed = Annotated[int, Field(ge=-1, le=MAX_SEED)]
_Metadata = dict[str, Any]

# Defaults of the line, not of the run: what is not said is for the model to say.
_SamplingKeys: Any = keys_of(Sampling, hidden=("cfg_scale", "guide_scale", "options"))
_EditKeys: Any = keys_of(Edit, hidden=("to_seed",))
_FinishingKeys: Any = keys_of(Finishing)


class AdapterRequest(Section):
    """An adapter of the model."""

    name: Annotated[str, MaxLen(200)] = Field(description="one of the model's adapters")
    strength: Annotated[float, Field(ge=-100, le=100)] = Field(1.0, description="0 is off")
    interval: tuple[float, float] | None = Field(
        None, description="noise levels from low to high, within 0 and 1, at which it applies"
    )


class GenerateRequest(_SamplingKeys, _EditKeys, _FinishingKeys):
    """A clip to generate. Sounds are named by the id of an upload or of a finished job."""

    model: Annotated[str, MaxLen(200)] | None = Field(
        None, description="name of the model; the first one is the default"
    )
    prompt: str | None = Field(None, description="short for conditioning.prompt")
    negative_prompt: str | None = Field(None, description="short for negative_conditioning.prompt")
    conditioning: _Metadata | None = Field(
        None, description="a value for every conditioner of the model, see /v1/models"
    )
    negative_conditioning: _Metadata | None = Field(None, description="what to steer away from")
    seed: Seed = Field(-1, description="of the noise; -1: a random one, which the answer tells")
    to_seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = Field(
        None, description="seed of the noise to go to"
    )
    seconds: Annotated[float, Gt(0)] | None = Field(
        None, description="length of the clip; default: the model's"
    )
    cfg_scale: float | None = Field(None, description="guidance weight, 1 = off; default: the model's")
    sampler_options: dict[str, Any] | None = Field(
        None, description="options of the sampler, such as {'eta': 0.5}"
    )
    cfg_rescale: float | None = Field(None, description="another name of scale_phi")
    adapters: list[AdapterRequest] | None = Field(None, description="adapters, in the order they apply")
    format: Format = Field("wav", description="of the sound")
    subtype: Subtype | None = Field(None, description="sample format of wav (default 16) and flac (16 or 24)")
    job: bool = Field(
        False, description="answer at once with a job to ask about, instead of with the sound when it is done"
    )
    deadline: Annotated[float, Gt(0)] | None = Field(
        None, description="seconds after which the clip is given up"
    )
    title: Annotated[str, MaxLen(500)] | None = Field(
        None, description="name in the history; default: the prompt"
    )

    def line(self) -> dict[str, Any]:
        """The keys that determine the sound, as JSON values, without those that were left out.

        Raises:
            ServiceError: two keys say the same.
        """
        own = ("model", "prompt", "negative_prompt", "format", "subtype", "job", "deadline", "title")
        values = self.model_dump(mode="json", exclude_none=True, exclude=set(own))
        for short, key in (("prompt", "conditioning"), ("negative_prompt", "negative_conditioning")):
            text = getattr(self, short)
            if text is None:
                continue
            if "prompt" in values.get(key, {}):
                raise ServiceError(422, f"{short} and {key}.prompt both give the prompt; leave one out")
            values[key] = {"prompt": text, **values.get(key, {})}
        for adapter in self.adapters or ():
            low, high = adapter.interval or (0.0, 1.0)
            if not 0 <= low <= high <= 1:
                raise ServiceError(
                    422, f"adapters: interval must be 0 <= low <= high <= 1, found {[low, high]}"
                )
        if "cfg_rescale" in values and "scale_phi" in values:
            raise ServiceError(422, "cfg_rescale and scale_phi are one setting; leave one out")
        return values


def parse_request(body: bytes) -> GenerateRequest:
    """Read the body of a request to generate; see `parse_body`."""
    return parse_body(body, GenerateRequest)


def parse_body(body: bytes, model: type[S]) -> S:
    """Read the body of a request.

    Raises:
        ServiceError: 400 if it is no JSON object, 422 with every mistake in it.
    """
    try:
        values = parse_json_object(body, source="body", object_pairs_hook=each_key_once)
    except JsonError as error:
        raise ServiceError(400, str(error)) from error
    if problem := _unusable(values):
        raise ServiceError(422, problem)
    try:
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        findings = [_sentence(finding, model) for finding in findings_of(error, model, values)]
        raise ServiceError(422, "; ".join(findings)[:4000]) from error


def _sentence(finding: Finding, model: type[Section]) -> str:
    place = json_path(finding.loc)
    if finding.kind == UNKNOWN:
        return f"{place}: unknown key; {did_you_mean(str(finding.loc[-1]), model.model_fields)}"
    return f"{place}: {finding.message}"


def _unusable(value: Any, loc: Loc = ()) -> str | None:
    """What is wrong with a number or text that JSON can hold, but no sound can be made of."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{json_path(loc)}: numbers must be finite, found {value}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_SEED:
        digits = len(str(abs(value)))
        return f"{json_path(loc)}: whole numbers must be at most {MAX_SEED}, found one of {digits} digits"
    if isinstance(value, str) and (half := fault(value)) is not None:
        return f"{json_path(loc)}: a text holds {half}"
    if isinstance(value, dict):
        keys = (f"{json_path(loc)}: a key holds {half}" for key in value if (half := fault(key)) is not None)
        if (problem := next(keys, None)) is not None:
            return problem
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return next((p for key, part in parts if (p := _unusable(part, (*loc, key)))), None)


__all__ = ["AdapterRequest", "GenerateRequest", "parse_body", "parse_request"]
